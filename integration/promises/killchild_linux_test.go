package promises

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// driverEnv names the driver of a child, seedEnv its seed.
const (
	driverEnv = "ROOST_PROMISES_DRIVER"
	seedEnv   = "ROOST_PROMISES_SEED"
)

// worker is the process that gets killed: an agent's store without the agent. All
// that it knows to be done it says on standard output, at once and not before.
//
//	sealed|synced|packed|durable|imported|removed <id>   done, and acknowledged
//	fetched <id>                                  imported, and not on the disk
//	created <id> <seed>                           of a directory made from that seed
//	removing|importing <id>                       begun
//	suspect <id>                                  found at the start, and dropped
//	restored|unrestoring <id>                     back-<id> is whole, or goes
type worker struct {
	s    *store.Store
	a    *almanac
	far  *far
	dir  string
	disk string // where the store is, and what is restored
	cut  bool   // the power of that disk is cut
	r    *rand.Rand
	out  sync.Mutex
}

func killChild(dir string) error {
	return work(&worker{dir: dir, disk: dir}, options(os.Getenv(driverEnv)))
}

// work is done until somebody kills the process.
func work(w *worker, o store.Options) error {
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	if err != nil {
		return err
	}
	ctx := context.Background()
	w.r, w.far = rand.New(rand.NewPCG(seed, 3)), &far{dir: filepath.Join(w.dir, "far")}
	if w.a, err = openAlmanac(filepath.Join(w.dir, "almanac")); err != nil {
		return err
	}
	o.OnChange = func(in store.Info) {
		if in.State.Usable() && in.Synced {
			w.say("synced", in.ID)
		}
		if in.State == store.Packed {
			w.say("packed", in.ID)
		}
	}
	fmt.Println("open")
	if w.s, err = store.Open(ctx, filepath.Join(w.disk, "store"), o); err != nil {
		return err
	}
	for _, v := range w.s.Views() {
		if v.Sealed {
			w.say("sealed", v.ID) // it is in the store's book, so it is promised
			err = w.s.Reported(ctx, v.ID)
		} else {
			err = w.s.Discard(ctx, v.ID)
		}
		if err != nil {
			return err
		}
	}
	if err := w.drop(ctx); err != nil {
		return err
	}
	fmt.Println("ready")
	go w.s.Run(ctx) //nolint:errcheck // ends with the process
	for range 4000 {
		if err := w.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) say(what string, id snapshot.ID) {
	w.out.Lock()
	defer w.out.Unlock()
	fmt.Println(what, id)
}

// drop removes what a power cut left in doubt, and says so before.
func (w *worker) drop(ctx context.Context) error {
	for _, in := range slices.Backward(w.s.List()) {
		if in.State.Usable() {
			continue
		}
		w.say("suspect", in.ID)
		if err := w.s.Drop(ctx, in.ID); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) step(ctx context.Context) error {
	var held, created []store.Info
	for _, in := range w.s.List() {
		if w.a.jobs[in.ID] != nil {
			held = append(held, in)
		} else {
			created = append(created, in)
		}
	}
	k := w.r.IntN(115)
	switch {
	case k >= 108 && len(created) < 3:
		return w.create(ctx)
	case k >= 100 && len(created) > 0:
		return w.restore(ctx, created[w.r.IntN(len(created))].ID)
	case len(held) == 0, k < 40 && len(held) < 9:
		return w.job(ctx, held, false)
	case k < 45:
		return w.job(ctx, held, true)
	case k < 60:
		return w.look(ctx, held[w.r.IntN(len(held))].ID)
	case k < 75:
		return w.importOne(ctx)
	default:
		return w.retire(ctx, held[w.r.IntN(len(held))].ID)
	}
}

// job prepares a view, gardens in it, and seals or discards it.
func (w *worker) job(ctx context.Context, held []store.Info, drop bool) error {
	id, err := snapshot.NewID(crand.Reader)
	if err != nil {
		return err
	}
	j := &job{ID: id, Plot: plots[w.r.IntN(len(plots))], Seed: w.r.Uint64(), Steps: 1 + w.r.IntN(12), Inputs: w.inputs(held)}
	if w.r.IntN(4) == 0 {
		j.Small = 80 // so many that they are worth gathering
	}
	if err := w.a.add(j); err != nil {
		return err
	}
	p := store.PrepareSpec{ID: id, Target: filepath.Join(w.disk, "slots", string(id)), DomainKey: domainKey}
	for i, in := range j.Inputs {
		p.Inputs = append(p.Inputs, store.Input{Snapshot: in, Job: fmt.Sprint("job ", i)})
	}
	at, err := w.s.Prepare(ctx, p)
	if errors.Is(err, snapshot.ErrNotFound) && len(j.Inputs) > 0 {
		return nil // what they have in common was removed
	}
	if err != nil {
		return err
	}
	if err := j.run(at.Target); err != nil {
		return err
	}
	if drop {
		return w.s.Discard(ctx, id)
	}
	in, err := w.s.Seal(ctx, id, []byte("green"))
	if err != nil {
		return err
	}
	if in.State != store.Sealed {
		return fmt.Errorf("sealed, but %s: %s", in.State, in.Err)
	}
	w.say("sealed", id)
	if w.r.IntN(2) == 0 {
		return w.s.Reported(ctx, id)
	}
	return nil
}

// create makes a snapshot of a directory, as the command does.
func (w *worker) create(ctx context.Context) error {
	seed := w.r.Uint64()
	dir := filepath.Join(w.dir, fmt.Sprintf("src-%d", seed))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := garden(dir, seed, createSteps, true); err != nil {
		return err
	}
	made, err := w.s.Create(ctx, store.CreateSpec{Dir: dir, DomainKey: domainKey})
	if err != nil {
		return err
	}
	w.out.Lock()
	fmt.Println("created", made.ID, seed)
	w.out.Unlock()
	return os.RemoveAll(dir)
}

// createSteps is how much is done to a directory of which a snapshot is made.
const createSteps = 15

// restore writes such a snapshot to a directory, or removes it.
func (w *worker) restore(ctx context.Context, id snapshot.ID) error {
	if w.r.IntN(3) == 0 {
		w.say("removing", id)
		if err := w.s.Drop(ctx, id); err != nil {
			return err
		}
		w.say("removed", id)
		return nil
	}
	dir := filepath.Join(w.disk, "back-"+string(id))
	w.say("unrestoring", id)
	if err := w.away(dir); err != nil {
		return err
	}
	if _, err := w.s.Restore(ctx, store.RestoreSpec{Snapshot: id, Dir: dir}); err != nil {
		return err
	}
	w.say("restored", id)
	if w.cut {
		return nil // the next one of this snapshot removes it
	}
	return w.away(dir)
}

// away removes a directory that must not be seen half removed.
func (w *worker) away(dir string) error {
	gone := filepath.Join(w.disk, fmt.Sprintf("gone-%d", w.r.Uint64()))
	if err := os.Rename(dir, gone); err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	return os.RemoveAll(gone)
}

// inputs picks nothing, one snapshot, or two that stand on the same one and whose
// jobs gardened different plots.
func (w *worker) inputs(held []store.Info) []snapshot.ID {
	if len(held) == 0 || w.r.IntN(8) == 0 {
		return nil
	}
	a := held[w.r.IntN(len(held))].ID
	if ja := w.a.jobs[a]; ja != nil && len(ja.Inputs) == 1 {
		for _, in := range held {
			jb := w.a.jobs[in.ID]
			if jb != nil && len(jb.Inputs) == 1 && jb.Inputs[0] == ja.Inputs[0] && jb.Plot != ja.Plot {
				return []snapshot.ID{a, in.ID}
			}
		}
	}
	return []snapshot.ID{a}
}

func (w *worker) look(ctx context.Context, id snapshot.ID) error {
	at := filepath.Join(w.dir, "look")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	c, err := w.s.Mount(ctx, id, at)
	if err != nil {
		return err
	}
	if _, err := os.ReadDir(filepath.Join(at, "p0")); err != nil {
		return err
	}
	return c.Close()
}

// retire uploads a layer and removes it, if nothing stands on it.
func (w *worker) retire(ctx context.Context, id snapshot.ID) error {
	if w.s.Reported(ctx, id) != nil {
		return nil
	}
	in, err := w.s.Packed(ctx, id)
	if err != nil {
		return err
	}
	if in.State == store.Packed {
		if err := w.far.upload(ctx, w.s, &in); err != nil {
			return err
		}
		if err := w.s.MarkDurable(ctx, id); err != nil {
			return err
		}
		w.say("durable", id)
	}
	w.say("removing", id)
	err = w.s.Remove(ctx, id)
	switch {
	case errors.Is(err, snapshot.ErrBusy):
		w.say("kept", id)
		return nil
	case err != nil:
		return err
	}
	w.say("removed", id)
	return nil
}

// importOne brings back a snapshot that was removed here.
func (w *worker) importOne(ctx context.Context) error {
	specs, err := w.far.specs()
	if err != nil || len(specs) == 0 {
		return err
	}
	spec := specs[w.r.IntN(len(specs))]
	if _, err := w.s.Lookup(spec.ID); err == nil {
		return nil
	}
	if _, err := w.s.Lookup(spec.Base); spec.Base != "" && err != nil {
		return nil
	}
	w.say("importing", spec.ID)
	spec.Later = w.cut && w.r.IntN(2) == 0
	if err := w.s.Import(ctx, spec, w.far.open, &view.Meter{}); err != nil {
		return err
	}
	if spec.Later {
		w.say("fetched", spec.ID)
		return nil
	}
	w.say("imported", spec.ID)
	return nil
}

// far is the blob store: a directory.
type far struct{ dir string }

func (f *far) upload(ctx context.Context, s *store.Store, in *store.Info) error {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return err
	}
	for _, b := range in.Blobs {
		r, _, err := s.OpenBlob(ctx, b.Digest)
		if errors.Is(err, snapshot.ErrNotFound) {
			if _, err := os.Stat(filepath.Join(f.dir, b.Digest.String())); err == nil {
				continue // of an ancestor that is durable
			}
		}
		if err != nil {
			return err
		}
		all, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		if err := writeWhole(filepath.Join(f.dir, b.Digest.String()), all); err != nil {
			return err
		}
	}
	return writeWhole(filepath.Join(f.dir, string(in.ID)+".spec"), importSpec(in))
}

func importSpec(in *store.Info) *store.ImportSpec {
	return &store.ImportSpec{
		ID: in.ID, Base: in.WireBase, Parents: in.Parents, Index: in.Index, IndexBytes: in.IndexBytes,
		Manifest: in.Manifest, DomainKey: domainKey,
	}
}

func (f *far) specs() (list []store.ImportSpec, err error) {
	names, err := filepath.Glob(filepath.Join(f.dir, "*.spec"))
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			return nil, err
		}
		var s store.ImportSpec
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func (f *far) open(_ context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	b, err := os.ReadFile(filepath.Join(f.dir, d.String()))
	if err != nil {
		return nil, err
	}
	b = b[min(off, int64(len(b))):]
	if n >= 0 && n < int64(len(b)) {
		b = b[:n]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}
