package coordinator

import (
	"strconv"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// checkRegister refuses a host that can't be one.
func checkRegister(r api.Register) error {
	if r.Name == "" || len(r.Name) > maxName || !printable(r.Name) {
		return invalid("a host's name has 1 to %d printable characters", maxName)
	}
	if r.Slots < 0 || r.Slots > maxSlots || len(r.Tags) > maxTags {
		return invalid("a host has 0 to %d slots and up to %d tags", maxSlots, maxTags)
	}
	for _, t := range append([]string{r.Driver, r.OS, r.Arch, r.Fingerprint, r.Version, r.BootID}, r.Tags...) {
		if len(t) > 4096 || !printable(t) {
			return invalid("%.80q is not a text that a host may say of itself", t)
		}
	}
	for _, id := range []snapshot.ID{r.StoreID, r.Session} {
		if _, err := snapshot.ParseID(string(id)); err != nil {
			return invalid("store or session: %v", err)
		}
	}
	if len(r.Attempts) > maxSlots {
		return invalid("%d attempts are more than a host can have", len(r.Attempts))
	}
	return checkHoldings(r.Holdings)
}

func checkHoldings(hs []api.Holding) error {
	for _, h := range hs {
		if _, err := snapshot.ParseID(string(h.ID)); err != nil || h.Bytes < 0 {
			return invalid("holding %.80q: not an id, or of negative size", h.ID)
		}
	}
	return nil
}

func checkFinish(f api.Finish) error {
	switch f.Status {
	case api.StatusSuccess, api.StatusFailed, api.StatusCanceled:
	default:
		return invalid("an attempt ends as success, failed or canceled, not as %q", f.Status)
	}
	if len(f.Parents) > maxParents || f.RunMS < 0 || f.Bytes < 0 {
		return invalid("up to %d parents, and no negative numbers", maxParents)
	}
	ids := f.Parents
	if f.Output != "" {
		ids = append([]snapshot.ID{f.Output}, ids...)
	}
	for _, id := range ids {
		if _, err := snapshot.ParseID(string(id)); err != nil {
			return invalid("output or parent: %v", err)
		}
	}
	return nil
}

// query reads a whole number from the query; absent is def.
func (c *call) query(name string, def int64) (int64, error) {
	v := c.r.URL.Query().Get(name)
	if v == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, invalid("%s: want a whole number that is not negative", name)
	}
	return n, nil
}

// waitFor reads how long a long-poll may take.
func (c *call) waitFor() (time.Duration, error) {
	v := c.r.URL.Query().Get("wait")
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return 0, invalid("wait: want a duration such as 30s")
	}
	return min(d, maxWait), nil
}
