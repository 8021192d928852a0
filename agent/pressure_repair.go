package agent

import (
	"context"
	"errors"
	"time"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// reofferAgain is after what time a blob that is still missing is tried once more.
const reofferAgain = 10 * time.Minute

// reoffer uploads again what the blob store lost and this host can make from the
// files of its layers.
func (a *Agent) reoffer(ctx context.Context, lost []snapshot.Digest) {
	now := a.o.Now()
	a.mu.Lock()
	var todo []snapshot.Digest
	for _, d := range lost {
		if at, ok := a.offered[d]; !ok || now.Sub(at) > reofferAgain {
			a.offered[d] = now
			todo = append(todo, d)
		}
	}
	if len(lost) == 0 {
		clear(a.offered)
	}
	a.mu.Unlock()
	if len(todo) == 0 {
		return
	}
	a.later(func() {
		for _, d := range todo {
			in, err := a.o.Store.Reoffer(ctx, d)
			switch {
			case errors.Is(err, snapshot.ErrNotFound): // somebody else may have it
			case err != nil:
				a.log.Warn("what the blob store lost can't be made again here", "blob", d, "err", err)
			default:
				a.log.Info("the blob store lost a blob; it gets it again", "blob", d, "snapshot", in.ID)
				a.enqueue(ctx, in)
				a.up.Urgent(in.ID)
			}
		}
	})
}

// later runs fn behind the jobs' backs, unless the agent is about to stop.
func (a *Agent) later(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.draining {
		a.behind.Go(fn)
	}
}

// importChain imports the last layer of a chain. If what came is damaged, the blob store is asked to read
// its copy: if that is damaged, it is set aside, another host that has it uploads it
// again, and that is waited for; else it was the way here. Each blob has one try.
func (a *Agent) importChain(ctx context.Context, chain []store.ImportSpec, m *view.Meter) error {
	tried := map[snapshot.Digest]bool{}
	for {
		err := a.o.Store.ImportChain(ctx, chain, a.fetch.Open, m)
		d, ok := damagedBlob(err)
		if !ok || tried[d] || !a.mendBlob(ctx, d, chain[len(chain)-1].ID) {
			return err
		}
		tried[d] = true
	}
}

// damagedBlob finds the blob that an import failed for.
func damagedBlob(err error) (d snapshot.Digest, ok bool) {
	var corrupt *snapshot.CorruptError
	if !errors.As(err, &corrupt) || corrupt.What != "pack" && corrupt.What != "index" {
		return d, false
	}
	d, err = snapshot.ParseDigest(corrupt.Name)
	return d, err == nil
}

// mendBlob has the blob store read a blob, and reports whether another try may be
// better.
func (a *Agent) mendBlob(ctx context.Context, d snapshot.Digest, id snapshot.ID) bool {
	c, ok := a.o.Blobs.(interface {
		Check(ctx context.Context, d snapshot.Digest) error
	})
	if !ok {
		return false
	}
	err := c.Check(ctx, d)
	if !errors.Is(err, snapshot.ErrNotFound) {
		return err == nil
	}
	a.log.Error("the blob store's copy of a blob is damaged; other hosts are asked for it", "blob", d, "snapshot", id)
	return a.waitBlob(ctx, d)
}

// repairWait is how long a job waits for a host to upload what was damaged. Hosts hear
// of it with their next heartbeat.
const repairWait = 20 * time.Second

// waitBlob waits until the blob store has d, and reports whether it has.
func (a *Agent) waitBlob(ctx context.Context, d snapshot.Digest) bool {
	for begin := elapsed(); elapsed()-begin < repairWait; {
		if _, err := a.o.Blobs.Stat(ctx, d); err == nil {
			return true
		}
		if pause.For(ctx, 200*time.Millisecond) != nil {
			break
		}
	}
	return false
}
