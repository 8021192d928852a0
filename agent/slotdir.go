package agent

import (
	"context"
	"os"

	"github.com/roost-ci/roost/internal/durable"
)

// clearSlot makes the directory of a slot, and empties it: what an earlier job left
// there beside its workspace is nobody's any more, and may hold its tokens. An open
// view there is unmounted; that fails while somebody uses it.
func (a *Agent) clearSlot(ctx context.Context, slot int) error {
	dir := a.slotDir(slot)
	if _, err := os.Lstat(dir); err != nil {
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := a.own(dir); err != nil {
		return err
	}
	return a.o.Store.Empty(ctx, dir)
}
