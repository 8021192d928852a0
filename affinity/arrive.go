package affinity

import (
	"maps"
	"math"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// Arrive notes that c will be there after so many seconds. The host will hold the first
// snapshot alone by its name. What stood below it may be replaced by what stands on it:
// as much of a layer comes as those above it can't have replaced and the tree has room
// for. Maps that h has are not changed.
func (h *Host) Arrive(c Chain, after float64) {
	above, room := int64(0), int64(math.MaxInt64)
	if len(c) > 0 && c[0].Tree > 0 {
		room = max(c[0].Tree-c[0].Bytes, 0)
	}
	for i := range c {
		if h.Has[c[i].ID] {
			return
		}
		if i == 0 {
			h.Coming = cloned(h.Coming)
			h.Parts = cloned(h.Parts)
			h.Coming[c[0].ID] = after
		} else if n := min(c[i].Bytes-above, room); n > 0 {
			room -= n
			h.Parts[c[i].ID] = append(slices.Clip(h.Parts[c[i].ID]), Part{With: c[0].ID, Bytes: n, After: after})
		}
		above += c[i].Bytes
	}
}

func cloned[V any](m map[snapshot.ID]V) map[snapshot.ID]V {
	if m == nil {
		return map[snapshot.ID]V{}
	}
	return maps.Clone(m)
}

// arrives has the jobs that are placed after j know what comes for j to h.
func (d *decider) arrives(j *Job, h *Host, f fit) {
	for _, c := range j.Inputs {
		h.Arrive(c, f.fetch)
	}
	for _, c := range j.Seeds[h.Fingerprint] {
		if len(c) > 0 && c[0].ID == f.seed {
			h.Arrive(c, f.fetch)
		}
	}
}
