package coordinator

import (
	"math"
	"strconv"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
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
		for _, p := range h.Of {
			if _, err := snapshot.ParseID(string(p.ID)); err != nil || p.Bytes < 0 || p.Tree < 0 {
				return invalid("part %.80q: not an id, or of negative size", p.ID)
			}
		}
	}
	return nil
}

// Bounds of what a host may say of a job. What is beyond them can't be true and is
// no reason to refuse the rest: the job would have run for nothing.
const (
	maxText   = 2000
	maxWord   = 128
	maxAmount = 1 << 56            // bytes; sums of many still fit
	maxMS     = 10 * 365 * 86400e3 // ten years
)

// tidyWorkspace makes what a host says of a workspace fit to be stored, reckoned
// with and shown. Its reason may hold names of files, which jobs choose.
func tidyWorkspace(w *api.Workspace) {
	for _, s := range []*string{&w.State, &w.Origin, &w.Source, (*string)(&w.Code), (*string)(&w.Output), &w.Driver} {
		*s = gitlab.OneLine(*s, maxWord)
	}
	w.Reason = gitlab.OneLine(w.Reason, maxText)
	w.Inputs = w.Inputs[:min(len(w.Inputs), maxParents)]
	for i := range w.Inputs {
		w.Inputs[i] = gitlab.OneLine(w.Inputs[i], maxWord)
	}
	for _, n := range []*int64{&w.BytesNeeded, &w.BytesMoved, &w.BytesWritten} {
		*n = min(max(*n, 0), maxAmount)
	}
	for _, x := range []*float64{&w.AttachMS, &w.SealMS} {
		*x = math.Min(math.Max(*x, 0), maxMS)
	}
	w.MTimeDivergence = min(max(w.MTimeDivergence, 0), math.MaxInt32)
}

// tidyFinish does the same for the end of an attempt.
func tidyFinish(f *api.Finish) {
	f.Code, f.Reason = api.Code(gitlab.OneLine(string(f.Code), maxWord)), gitlab.OneLine(f.Reason, maxText)
	f.RunMS, f.Bytes = min(f.RunMS, maxMS), min(f.Bytes, maxAmount)
	tidyWorkspace(&f.Workspace)
}

// tidyHeartbeat does the same for what a host says of itself.
func tidyHeartbeat(h *api.Heartbeat) {
	for _, n := range []*int64{&h.DiskFree, &h.DiskTotal, &h.Queue, &h.Evicted, &h.EvictedBytes} {
		*n = min(max(*n, 0), maxAmount)
	}
	for _, x := range []*float64{&h.EncodeRate, &h.UploadRate} {
		*x = math.Min(math.Max(*x, 0), maxAmount)
	}
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
