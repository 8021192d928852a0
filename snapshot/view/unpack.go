package view

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// unpacking is the frame of every driver's Unpack.
type unpacking struct {
	layout
	held   *held
	log    hclog.Logger
	remove func(ctx context.Context, id snapshot.ID) error
}

// run checks what Unpack was given, makes views/<id> and has lay make the layer in
// it. On error nothing is left.
//
// Crash states: until it returns, views/<id> belongs to no layer that the store
// knows, and Reconcile deletes it.
func (u unpacking) run(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
	lay func() (*Layer, error),
) (_ *Layer, err error) {
	if _, err := snapshot.ParseID(string(id)); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	if err := checkLayer(base); err != nil {
		return nil, err
	}
	if err := tree.ValidateChanges(changes); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	if err := os.Mkdir(u.dir(id), 0o700); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			if rerr := u.remove(context.WithoutCancel(ctx), id); rerr != nil {
				u.log.Warn("could not undo an unpack; it is deleted at the next start", "layer", id, "err", rerr)
			}
		}
	}()
	fail.Point("view.unpack.made")
	if err := u.held.keep(id, u.dir(id)); err != nil {
		return nil, err
	}
	l, err := lay()
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", id, err)
	}
	return l, nil
}
