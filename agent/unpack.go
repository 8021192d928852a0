package agent

import (
	"context"
	"errors"
	"time"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// unpackStored makes inputs that somebody pulled into the store what a view can stand
// on: they are held, and nothing of them has to be fetched.
func (at *attaching) unpackStored(ctx context.Context) error {
	m := &view.Meter{}
	for _, in := range at.spec.Inputs {
		if err := at.a.unpack(ctx, in.Snapshot, m); err != nil {
			return err
		}
	}
	at.p.ws.BytesWritten += m.Written()
	return nil
}

// unpack unpacks a snapshot whose content is in packs alone. Of any other it does nothing.
func (a *Agent) unpack(ctx context.Context, id snapshot.ID, m *view.Meter) error {
	for {
		if in, err := a.o.Store.Lookup(id); err != nil || !in.StoredOnly {
			return nil //nolint:nilerr // what is not held is the business of who stands on it
		}
		// It may be being unpacked for another job, or have come to its end of an upload.
		err := a.o.Store.Materialise(ctx, id, m)
		if !errors.Is(err, snapshot.ErrBusy) {
			return err
		}
		if err := pause.For(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}
