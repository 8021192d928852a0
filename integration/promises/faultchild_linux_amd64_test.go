package promises

import (
	"bufio"
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// faulty is the process whose system calls fail. It does what it is told, a line
// at a time: "set <operation>", "do", "check retry" or "check reopen". What it
// answers is a line of JSON.
type faulty struct {
	dir    string
	driver string
	a      *almanac
	far    *far
	r      *rand.Rand
	s      *store.Store

	base, other, away snapshot.ID // always held, the same, only in far
	created           snapshot.ID // of the directory plain, always held
	op                string
	id                snapshot.ID // of the operation
	acked             bool
	gone              bool
	late              map[snapshot.ID]bool // what is removed at the next start only
}

// answer is what the child says of a step.
type answer struct {
	Fd  int    // the supervisor's
	Err string // of the operation, which may fail
	Bad string // of the check, which may not
}

func faultChild(dir string) error {
	f := &faulty{
		dir: dir, driver: os.Getenv(driverEnv), far: &far{dir: filepath.Join(dir, "far")},
		r: rand.New(rand.NewPCG(1, 2)), late: map[snapshot.ID]bool{},
	}
	var err error
	if f.a, err = openAlmanac(filepath.Join(dir, "almanac")); err != nil {
		return err
	}
	if err := f.open(); err != nil {
		return err
	}
	if err := f.furnish(); err != nil {
		return err
	}
	fd, err := installTrap()
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(answer{Fd: fd}); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		a := answer{}
		what, arg, _ := strings.Cut(in.Text(), " ")
		switch what {
		case "set":
			a.Bad = text(f.set(arg))
		case "do":
			a.Err = text(f.do())
		case "check":
			a.Bad = text(f.check(arg))
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return errors.Join(in.Err(), f.s.Close())
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (f *faulty) open() (err error) {
	f.s, err = store.Open(context.Background(), filepath.Join(f.dir, "store"), options(f.driver))
	return err
}

// furnish makes two snapshots that stay and one that is only in the blob store.
func (f *faulty) furnish() error {
	ctx := context.Background()
	made := make([]snapshot.ID, 3)
	for i := range made {
		var in []snapshot.ID
		if i > 0 {
			in = []snapshot.ID{made[0]}
		}
		id, err := f.sealed(in, plots[i])
		if err != nil {
			return err
		}
		if err := f.packed(id, false); err != nil {
			return err
		}
		made[i] = id
	}
	f.base, f.other, f.away = made[0], made[1], made[2]
	for _, id := range made[:1] {
		in, err := f.s.Lookup(id)
		if err != nil {
			return err
		}
		if err := f.far.upload(ctx, f.s, &in); err != nil {
			return err
		}
	}
	in, err := f.s.Lookup(f.away)
	if err != nil {
		return err
	}
	if err := f.far.upload(ctx, f.s, &in); err != nil {
		return err
	}
	if err := os.Mkdir(f.plain(), 0o755); err != nil {
		return err
	}
	if err := garden(f.plain(), 21, 25, true); err != nil {
		return err
	}
	c, err := f.s.Create(ctx, store.CreateSpec{Dir: f.plain(), DomainKey: domainKey})
	if err != nil {
		return err
	}
	f.created = c.ID
	return f.s.Drop(ctx, f.away)
}

// plain is a directory that commands make a snapshot of; back where they restore it.
func (f *faulty) plain() string { return filepath.Join(f.dir, "plain") }

func (f *faulty) back() string { return filepath.Join(f.dir, "back") }

// restored writes a snapshot of plain to back, compares it and removes it again.
func (f *faulty) restored(id snapshot.ID) error {
	if _, err := f.s.Restore(context.Background(), store.RestoreSpec{Snapshot: id, Dir: f.back()}); err != nil {
		return err
	}
	return f.sameAsPlain()
}

func (f *faulty) sameAsPlain() error {
	diff, err := treecheck.Compare(f.plain(), f.back())
	if err == nil && len(diff) > 0 {
		err = fmt.Errorf("restored, but %s", strings.Join(diff, "\n"))
	}
	return errors.Join(err, os.RemoveAll(f.back()))
}

func (f *faulty) spec(inputs []snapshot.ID, plot string) (*job, store.PrepareSpec, error) {
	id, err := snapshot.NewID(crand.Reader)
	if err != nil {
		return nil, store.PrepareSpec{}, err
	}
	j := &job{ID: id, Inputs: inputs, Plot: plot, Seed: f.r.Uint64(), Steps: 6}
	p := store.PrepareSpec{ID: id, Target: filepath.Join(f.dir, "slots", string(id)), DomainKey: domainKey}
	for i, in := range inputs {
		p.Inputs = append(p.Inputs, store.Input{Snapshot: in, Job: fmt.Sprint("job ", i)})
	}
	return j, p, f.a.add(j)
}

// opened prepares a view and does its job.
func (f *faulty) opened(inputs []snapshot.ID, plot string) (snapshot.ID, error) {
	j, p, err := f.spec(inputs, plot)
	if err != nil {
		return "", err
	}
	at, err := f.s.Prepare(context.Background(), p)
	if err != nil {
		return "", err
	}
	return j.ID, j.run(at.Target)
}

func (f *faulty) sealed(inputs []snapshot.ID, plot string) (snapshot.ID, error) {
	id, err := f.opened(inputs, plot)
	if err != nil {
		return "", err
	}
	return id, f.seal(id)
}

func (f *faulty) seal(id snapshot.ID) error {
	in, err := f.s.Seal(context.Background(), id, nil)
	if err == nil && in.State != store.Sealed {
		err = fmt.Errorf("sealed as %s: %s", in.State, in.Err)
	}
	if err != nil {
		return err
	}
	f.acked = true
	return f.s.Reported(context.Background(), id)
}

// packed runs the background work until the layer is packed. If it may fail, the
// first reason why not ends it: it would be tried again.
func (f *faulty) packed(id snapshot.ID, mayFail bool) error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.s.Run(ctx) }()
	var err error
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		in, lerr := f.s.Lookup(id)
		if lerr != nil || in.State != store.Sealed || mayFail && in.Err != "" || time.Now().After(end) {
			if err = lerr; err == nil && in.State != store.Packed {
				err = fmt.Errorf("%s: %s", in.State, in.Err)
			}
			break
		}
	}
	cancel()
	return errors.Join(err, <-done)
}

// operations are what can be asked for.
var operations = []string{"prepare", "merge", "seal", "pack", "import", "mount", "discard", "remove", "durable", "evict", "create", "restore", "pull"}

// set makes everything ready for an operation.
func (f *faulty) set(op string) (err error) {
	f.op, f.acked, f.gone = op, false, false
	base := []snapshot.ID{f.base}
	switch op {
	case "prepare", "merge", "mount", "create":
		f.id = ""
	case "restore":
		f.id = f.created
	case "import", "pull":
		f.id = f.away
	case "seal", "discard":
		f.id, err = f.opened(base, "p1")
	case "pack", "remove", "durable":
		f.id, err = f.sealed(base, "p2")
	case "evict": // what stands on something that is not durable stays
		f.id, err = f.sealed(nil, "p2")
	}
	if err == nil && (op == "durable" || op == "evict") {
		if err = f.packed(f.id, false); err == nil {
			var in store.Info
			in, err = f.s.Lookup(f.id)
			err = errors.Join(err, f.far.upload(context.Background(), f.s, &in))
		}
	}
	if err == nil && op == "evict" {
		err = f.s.MarkDurable(context.Background(), f.id)
	}
	return err
}

func (f *faulty) do() error {
	ctx := context.Background()
	switch f.op {
	case "prepare", "merge":
		in := []snapshot.ID{f.base}
		if f.op == "merge" {
			in = []snapshot.ID{f.other, f.base}
		}
		j, p, err := f.spec(in, "p0")
		if err != nil {
			return err
		}
		f.id = j.ID
		_, err = f.s.Prepare(ctx, p)
		return err
	case "seal":
		return f.seal(f.id)
	case "pack":
		return f.packed(f.id, true)
	case "import", "pull":
		return f.importAway()
	case "evict":
		f.acked = false // it may be there or not
		r, err := f.s.Evict(ctx, store.EvictSpec{})
		f.gone = len(r.Evicted) > 0
		if len(r.Evicted) != 1 || r.Evicted[0].ID != f.id {
			err = errors.Join(err, fmt.Errorf("evicted %v", r.Evicted))
		}
		return err
	case "mount":
		return f.look(f.base)
	case "discard":
		return f.s.Discard(ctx, f.id)
	case "durable":
		return f.s.MarkDurable(ctx, f.id)
	case "create":
		made, err := f.s.Create(ctx, store.CreateSpec{Dir: f.plain(), DomainKey: domainKey})
		if err == nil {
			f.id, f.acked = made.ID, true
		}
		return err
	case "restore":
		_, err := f.s.Restore(ctx, store.RestoreSpec{Snapshot: f.created, Dir: f.back()})
		return err
	default:
		f.acked = false // it may be there or not
		err := f.s.Drop(ctx, f.id)
		f.gone = err == nil
		return err
	}
}

func (f *faulty) importAway() error {
	specs, err := f.far.specs()
	if err != nil {
		return err
	}
	for _, s := range specs {
		if s.ID == f.away {
			if f.op == "pull" {
				err = f.s.Pull(context.Background(), s, f.far.open, nil)
			} else {
				err = f.s.Import(context.Background(), s, f.far.open, &view.Meter{})
			}
			f.acked = err == nil
		}
	}
	return err
}

func (f *faulty) look(id snapshot.ID) error {
	at := filepath.Join(f.dir, "look")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	c, err := f.s.Mount(context.Background(), id, at)
	if err != nil {
		return err
	}
	diff := f.a.compare(id, at)
	return errors.Join(diff, c.Close())
}
