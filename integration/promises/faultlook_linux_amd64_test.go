package promises

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// check looks whether the operation was done or not, and nothing between, whether
// all else is as before, and whether it can be done now: in the same process, or
// in the next one.
func (f *faulty) check(how string) error {
	ctx := context.Background()
	if how == "reopen" {
		if err := f.s.Close(); err != nil {
			return fmt.Errorf("close: %w", err)
		}
		if err := f.open(); err != nil {
			return fmt.Errorf("the store does not open: %w", err)
		}
		if err := f.unmounted(); err != nil {
			return err
		}
	}
	if err := f.settled(how); err != nil {
		return fmt.Errorf("%s, then %s: %w", f.op, how, err)
	}
	for _, v := range f.s.Views() { // whatever is left of the case
		if v.Sealed {
			if err := f.s.Reported(ctx, v.ID); err != nil {
				return err
			}
		} else if err := f.s.Discard(ctx, v.ID); err != nil {
			return err
		}
	}
	for _, in := range slices.Backward(f.s.List()) {
		if in.ID == f.created {
			if err := f.s.Verify(ctx, in.ID); err != nil {
				return err
			}
			continue
		}
		if in.ID == f.base || in.ID == f.other {
			if in.State != store.Packed && in.State != store.Durable {
				return fmt.Errorf("%s was packed and is %s: %s", in.ID, in.State, in.Err)
			}
			if err := errors.Join(f.look(in.ID), f.s.Verify(ctx, in.ID)); err != nil {
				return err
			}
			continue
		}
		if err := f.s.Drop(ctx, in.ID); err != nil {
			return fmt.Errorf("it can't be removed: %w", err)
		}
	}
	return f.nothingLeft(how)
}

// settled brings the operation to its end.
func (f *faulty) settled(how string) error {
	held, usable, err := f.allowed()
	if err != nil {
		return err
	}
	switch f.op {
	case "seal":
		if !held && how == "retry" {
			if err := f.seal(f.id); err != nil {
				return fmt.Errorf("again: %w", err)
			}
			usable = true
		}
	case "import":
		if err := f.importAway(); err != nil {
			return fmt.Errorf("again: %w", err)
		}
		usable = true
	case "pack", "durable":
	default:
		return f.settledOther(held, usable)
	}
	if !usable {
		return nil
	}
	return f.whole()
}

// allowed refuses what no failure may make of the operation's layer. Else it reports
// whether the store has one, and one that can be used.
func (f *faulty) allowed() (held, usable bool, err error) {
	in, err := f.s.Lookup(f.id)
	held = err == nil
	if f.acked && !held {
		return held, false, errors.New("it was acknowledged and is lost")
	}
	if f.gone && held {
		return held, false, errors.New("it was removed and is there")
	}
	usable = held && in.State.Usable()
	// A row whose commit seemed to fail may be there after all. It is not used, and
	// the next import takes its place.
	doubtful := (f.op == "import" || f.op == "pull") && !f.acked && in.State == store.Suspect
	if held && !usable && !doubtful && !(f.op == "pack" && in.State == store.Suspect) { // its sync failed
		return held, usable, fmt.Errorf("it is %s: %s", in.State, in.Err)
	}
	return held, usable, nil
}

// settledOther does it for an operation that does not leave a layer to be packed.
func (f *faulty) settledOther(held, usable bool) error {
	ctx := context.Background()
	switch f.op {
	case "pull":
		if err := f.importAway(); err != nil {
			return fmt.Errorf("again: %w", err)
		}
		if err := errors.Join(f.s.Verify(ctx, f.id), f.s.Materialise(ctx, f.id, &view.Meter{})); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		return f.look(f.id)
	case "prepare", "merge":
		if held {
			return errors.New("it was never sealed")
		}
		id, err := f.sealed([]snapshot.ID{f.base}, "p0")
		if err != nil {
			return fmt.Errorf("another: %w", err)
		}
		return f.look(id)
	case "mount":
		return f.look(f.base)
	case "create":
		if held {
			return f.restored(f.id)
		}
		made, err := f.s.Create(ctx, store.CreateSpec{Dir: f.plain(), DomainKey: domainKey})
		if err != nil {
			return fmt.Errorf("again: %w", err)
		}
		return f.restored(made.ID)
	case "restore":
		return f.restoredAgain()
	case "discard":
		if held {
			return errors.New("it was never sealed")
		}
		return f.s.Discard(ctx, f.id)
	case "remove", "evict":
		if usable {
			if err := f.look(f.id); err != nil {
				return err
			}
		}
		return f.s.Drop(ctx, f.id)
	}
	return fmt.Errorf("nobody says how %s ends", f.op)
}

// restoredAgain checks a restore that has come to its end, or does it once more.
func (f *faulty) restoredAgain() error {
	if _, err := os.Lstat(f.back()); err == nil {
		return f.sameAsPlain()
	}
	if err := f.restored(f.created); err != nil {
		return fmt.Errorf("again: %w", err)
	}
	if left, _ := filepath.Glob(f.back() + "*"); len(left) > 0 {
		return fmt.Errorf("left: %v", left)
	}
	return nil
}

// whole checks the operation's layer, before and after it is packed.
func (f *faulty) whole() error {
	in, err := f.s.Lookup(f.id)
	if err != nil {
		return err
	}
	if err := f.look(f.id); err != nil {
		return err
	}
	if in.State == store.Sealed {
		if err := f.packed(f.id, false); err != nil {
			return fmt.Errorf("pack: %w", err)
		}
	}
	if err := f.s.Verify(context.Background(), f.id); err != nil {
		return err
	}
	return f.look(f.id)
}

// nothingLeft looks for files that belong to nothing. What could not be removed may
// wait for the next start.
func (f *faulty) nothingLeft(how string) error {
	if err := f.unmounted(); err != nil {
		return err
	}
	switch {
	case how == "reopen":
		f.late = map[snapshot.ID]bool{}
	case f.op == "remove", f.op == "evict":
		f.late[f.id] = true
	}
	views, err := os.ReadDir(filepath.Join(f.dir, "store", "views"))
	if err != nil {
		return err
	}
	for _, v := range views {
		if id := snapshot.ID(v.Name()); id != f.base && id != f.other && !f.late[id] {
			return fmt.Errorf("views/%s is left", id)
		}
	}
	return nil
}

// unmounted looks for mounts that nobody needs. A driver may keep those of images,
// in a place of its own, as long as its process lives.
func (f *faulty) unmounted() error {
	for _, m := range mountsBelow(f.dir) {
		if !strings.Contains(m, " "+filepath.Join(f.dir, "store", "mnt")+"/") {
			return fmt.Errorf("left: %s", m)
		}
	}
	return nil
}
