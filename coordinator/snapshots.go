package coordinator

import (
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// putSnapshot records the facts of a packed layer. They are set once: later calls
// may only add that it is durable. A snapshot that is not known yet is one whose
// finish is on its way, or an orphan.
func (t *txn) putSnapshot(l api.LayerRef) error {
	x := t.snapshots.get(l.ID)
	if x != nil && x.Packed {
		was, is := x.Layer, l
		if was.Manifest != is.Manifest || was.Base != is.Base || was.Index != is.Index {
			return &api.Error{HTTP: 409, Code: api.CodeConflict, Text: "snapshot " + string(l.ID) + " was packed before, with another result"}
		}
		if was.Durable || !is.Durable {
			return nil
		}
	}
	if x == nil {
		x = &state.Snapshot{ID: l.ID, Version: 1}
		t.keep(t.snapshots.set(l.ID, x))
	} else {
		x = t.editSnapshot(l.ID)
	}
	x.Packed, x.Layer = true, l
	t.place = true
	return nil
}

// checkLayer refuses facts that can't be.
func checkLayer(id snapshot.ID, l api.LayerRef) error {
	if l.ID != id {
		return invalid("snapshot %s is not %s, which the path names", l.ID, id)
	}
	if l.Base != "" {
		if _, err := snapshot.ParseID(string(l.Base)); err != nil || l.Base == l.ID {
			return invalid("base %.80q is not a snapshot that this one can stand on", l.Base)
		}
	}
	if l.Index.IsZero() || l.Manifest.IsZero() {
		return invalid("a packed snapshot has the digests of its index and its manifest")
	}
	for _, n := range []int64{l.IndexBytes, l.StoredBytes, l.OwnBytes, l.TreeBytes, l.Entries, l.PlainBytes} {
		if n < 0 {
			return invalid("sizes are not negative")
		}
	}
	if max(l.IndexBytes, l.StoredBytes) > maxAmount { // sums of many must fit
		return invalid("no layer has %d bytes", max(l.IndexBytes, l.StoredBytes))
	}
	return nil
}
