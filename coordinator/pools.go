package coordinator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/pipeline"
	"github.com/roost-ci/roost/coordinator/state"
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

// bell tells whoever waits that something is different.
type bell struct {
	mu sync.Mutex // guards ch
	ch chan struct{}
}

func (s *bell) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *bell) set() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// look gives the GitLab service what there is to do.
func (s *Server) look() (gitlab.Work, <-chan struct{}) {
	changed := s.outside.wait()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return gitlab.Work{Wants: s.wants(), Jobs: s.kept()}, changed
}

// want is one pool under counting.
type want struct {
	pool   *api.Pool
	tokens []string
	offers []api.SlotOffer
	free   int
}

// wants counts the slots that wait for a job in each pool. What is queued already will
// take one. s.mu is held.
func (s *Server) wants() []gitlab.Want {
	w := s.world
	pools := map[string]*want{}
	now := s.now()
	for name, p := range w.fleet {
		h := w.hosts[name]
		if p.pool == nil || h == nil || h.State != api.HostReady || !p.known {
			continue
		}
		x := pools[p.poolKey]
		if x == nil {
			x = &want{pool: p.pool}
			pools[p.poolKey] = x
		}
		for _, t := range p.pool.Tokens {
			if !slices.Contains(x.tokens, t) {
				x.tokens = append(x.tokens, t)
			}
		}
		if p.polls == 0 && !now.Before(p.expect) {
			continue
		}
		if free := min(h.Slots-len(w.live[name])-p.withheld, len(p.offers)); free > 0 {
			x.free += free
			for _, o := range p.offers {
				if len(o.Job) == 0 {
					x.offers = append(x.offers, o)
				}
			}
		}
	}
	for id := range w.queued {
		if e := w.jobs[id].Def.External; e != nil && e.Host == "" && pools[e.Pool] != nil {
			pools[e.Pool].free--
		}
	}
	var out []gitlab.Want
	seen := map[string]bool{}
	for _, key := range sortedKeys(pools) {
		x := pools[key]
		if x.free <= 0 || len(x.offers) == 0 {
			continue
		}
		s.asked++
		from := gitlab.Pool{Name: key, URL: x.pool.URL, Runner: x.offers[s.asked%len(x.offers)].Runner}
		for _, t := range x.tokens {
			if k := x.pool.URL + "\x00" + t; !seen[k] {
				seen[k] = true
				out = append(out, gitlab.Want{Pool: from, Token: gitlab.Secret(t), Free: x.free, Tokens: len(x.tokens)})
			}
		}
	}
	return out
}

// kept lists the jobs that no host has accepted, and those that GitLab has to be told
// of. s.mu is held.
func (s *Server) kept() []gitlab.Kept {
	var out []gitlab.Kept
	for id := range s.world.kept {
		j := s.world.jobs[id]
		e := j.Def.External
		k := gitlab.Kept{
			ID: id, URL: e.URL, Job: e.ID, Received: time.UnixMilli(e.ReceivedMS), Plain: e.Plain,
			Log:  logIn(j),
			Owed: j.Outside.Owed, OwedSince: time.UnixMilli(j.Outside.OwedMS), Canceled: j.Outside.Stopped, Quiet: j.Outside.Quiet,
			Timeout: time.Duration(j.Def.Spec.TimeoutMS) * time.Millisecond,
		}
		if k.Owed == "" {
			a := s.world.attempts[j.AttemptID]
			if e.Host != "" || (j.Status == api.StatusAssigned && a != nil && a.Stage != state.AttemptAssigned) {
				continue // its host looks after it
			}
			if j.Outside.Asking {
				k.APIToken, k.Path = gitlab.Secret(s.apiToken(e.Pool)), e.Path
			}
			if j.Status == api.StatusQueued {
				k.Queued, k.Waiting = true, s.waitingLine(j)
			}
		}
		out = append(out, k)
	}
	return out
}

// apiToken finds the token that reads pipelines among what the hosts of a pool brought.
func (s *Server) apiToken(pool string) string {
	for _, name := range sortedKeys(s.world.fleet) {
		if p := s.world.fleet[name]; p.poolKey == pool && p.pool != nil && p.pool.APIToken != "" {
			return p.pool.APIToken
		}
	}
	return ""
}

// waitingLine says in a job's log why it waits.
func (s *Server) waitingLine(j *state.Job) string {
	w := s.world.waits[j.ID]
	if w == nil || w.reason == "" || s.now().UnixMilli() < j.NotBefore {
		return ""
	}
	if j.Code == api.WaitHolder {
		for _, c := range w.candidates {
			if c.Excluded == "" && c.MissingBytes == 0 {
				return fmt.Sprintf("waiting for %s, which holds %s of this workspace, about %s", c.Host, bytesText(w.bytes), secondsText(c.Seconds))
			}
		}
	}
	return "waiting: " + w.reason
}

func bytesText(b int64) string {
	switch {
	case b < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(b)/(1<<10))
	case b < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(b)/(1<<20))
	case b < 1<<40:
		return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
	}
	return fmt.Sprintf("%.1f TiB", float64(b)/(1<<40))
}

func secondsText(s float64) string {
	if s < 600 {
		return fmt.Sprintf("%.0f s", s)
	}
	return fmt.Sprintf("%.0f min", s/60)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
