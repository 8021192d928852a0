package coordinator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/pipeline"
)

// Bounds of what a pool may have.
const (
	maxTokens      = 16
	maxToken       = 512
	maxFetchBudget = time.Hour
	maxRunner      = 256 << 10
)

// poolName is what hosts and jobs of one pool have in common.
func poolName(name, instance string) string { return name + " of " + instance }

// checkPool refuses a pool that can't be one, or whose server this coordinator was not
// told to ask. It makes its address the normal one.
func (s *Server) checkPool(host string, p *api.Pool) error {
	if p == nil {
		return nil
	}
	if p.System != api.SystemGitLab {
		return invalid("pool %.80q is of system %.80q; this coordinator knows %s", p.Name, p.System, api.SystemGitLab)
	}
	if p.Name == "" || len(p.Name) > maxName || !printable(p.Name) {
		return invalid("a pool's name has 1 to %d printable characters", maxName)
	}
	u, err := gitlab.Normal(p.URL)
	if err != nil {
		return invalid("pool %s: %v", p.Name, err)
	}
	if asks := len(p.Tokens) > 0 || p.APIToken != ""; asks && !slices.Contains(s.gitlabURLs, u) {
		return &api.Error{HTTP: 403, Code: api.CodeForbidden, Text: fmt.Sprintf(
			"host %s brings runners of %s, which this coordinator does not ask for jobs: add it to coordinator.gitlab_urls in its configuration", host, u)}
	}
	p.URL = u
	if len(p.Tokens) > maxTokens {
		return invalid("pool %s: want up to %d tokens", p.Name, maxTokens)
	}
	for _, t := range append([]string{p.APIToken}, p.Tokens...) {
		if len(t) > maxToken || !printable(t) || strings.ContainsRune(t, ' ') {
			return invalid("pool %s: a token has up to %d printable characters", p.Name, maxToken)
		}
	}
	if slices.Contains(p.Tokens, "") {
		return invalid("pool %s: a token is empty", p.Name)
	}
	if !slices.Contains([]string{"", gitlab.ModeOff, pipeline.ModeOptional, pipeline.ModeRequired}, p.Mode) {
		return invalid("pool %s: mode %.40q is none of off, optional, required", p.Name, p.Mode)
	}
	if !slices.Contains([]string{"", gitlab.DurabilityLocal, gitlab.DurabilitySynced, gitlab.DurabilityDurable}, p.Durability) {
		return invalid("pool %s: durability %.40q is none of local, synced, durable", p.Name, p.Durability)
	}
	if p.FetchBudgetMS < 0 || p.FetchBudgetMS > maxFetchBudget.Milliseconds() {
		return invalid("pool %s: fetch_budget_ms is from 0 to an hour", p.Name)
	}
	return nil
}

// checkOffers refuses offers that can't be.
func checkOffers(r api.ClaimRequest) error {
	if len(r.Offers) > maxSlots {
		return invalid("%d slots are more than a host can have", len(r.Offers))
	}
	for _, o := range r.Offers {
		if o.Slot < 0 || o.Slot > maxSlots || len(o.Runner) > maxRunner || (len(o.Runner) > 0 && !json.Valid(o.Runner)) {
			return invalid("slot %d: not a slot, or what its runner says is too long or no JSON", o.Slot)
		}
	}
	return nil
}

// setPool notes the pool that a host brought.
func (p *presence) setPool(pool *api.Pool) {
	p.pool, p.poolKey = pool, ""
	if pool != nil {
		instance, _ := gitlab.Instance(pool.URL) //nolint:errcheck // it was checked
		p.poolKey = poolName(pool.Name, instance)
	}
}
