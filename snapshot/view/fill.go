package view

import (
	"fmt"
	"os"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// filler makes the files of an unpacked layer and has their content written.
type filler struct {
	p       *placer
	changes []snapshot.Change
	meter   *Meter
	// paths has for each file the name under which it was made first, "" for what
	// takes no content. It is complete before the first write.
	paths []string
	first map[string]string
}

func newFiller(p *placer, changes []snapshot.Change, m *Meter) *filler {
	return &filler{p: p, changes: changes, meter: m, paths: make([]string, len(changes)), first: map[string]string{}}
}

// make makes the file of changes[i], all hole.
func (f *filler) make(i int, e *snapshot.Entry) error {
	if e.Size < 0 {
		return fmt.Errorf("size %d", e.Size)
	}
	file, err := f.p.create(e.Path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // synced as a whole, where errors are seen
	f.paths[i] = e.Path
	if e.Link != "" {
		f.first[e.Link] = e.Path
	}
	return file.Truncate(e.Size)
}

// write is the WriteFunc.
func (f *filler) write(i int, off int64, b []byte) error {
	if i < 0 || i >= len(f.changes) {
		return fmt.Errorf("write to change %d of %d", i, len(f.changes))
	}
	e := &f.changes[i].Entry
	to := f.paths[i]
	if to == "" && e.Link != "" {
		if to = f.first[e.Link]; to == "" {
			return nil // a further name of a file that the base has
		}
	}
	if to == "" {
		return fmt.Errorf("write to %q, which is no file", e.Path)
	}
	if off < 0 || off > e.Size || int64(len(b)) > e.Size-off {
		return fmt.Errorf("write to %q: bytes %d to %d of %d", e.Path, off, off+int64(len(b)), e.Size)
	}
	file, err := f.p.open(to, os.O_WRONLY)
	if err != nil {
		return err
	}
	n, err := durable.WriteAt(file, b, off)
	f.meter.Add(int64(n))
	if cerr := file.Close(); err == nil && cerr != nil {
		err = &os.PathError{Op: "close", Path: to, Err: cerr}
	}
	return err
}

// finish gives the files their look, as look has it on disk.
func (f *filler) finish(look func(*snapshot.Entry) *snapshot.Entry) error {
	for i, p := range f.paths {
		if p == "" {
			continue
		}
		if err := f.p.meta(p, look(&f.changes[i].Entry)); err != nil {
			return err
		}
	}
	return nil
}
