package view

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// UnpackTree implements Streamer. What is not new is copied from where it lies, so the
// base itself is not looked at.
func (d *Copy) UnpackTree(ctx context.Context, spec TreeSpec) (*Layer, Tree, error) {
	var located Tree
	l, err := d.frame().unpack(ctx, spec.ID, spec.Base, nil, func(l *Layer) error {
		dir := d.abs(l.Dir)
		located = func(fn func(e *snapshot.Entry) error) error {
			return spec.New(func(e *snapshot.Entry) error {
				if e.Type == snapshot.TypeFile {
					e.Source, e.SourceAt = filepath.Join(dir, filepath.FromSlash(e.Path)), 0
				}
				return fn(e)
			})
		}
		u := treeUnpack{d: d, spec: &spec, dir: dir, whole: located, links: linkGroups{}}
		if spec.Whole != nil {
			u.whole = spec.Whole(located)
		}
		if err := u.run(ctx, l); err != nil {
			return err
		}
		return d.Sync(ctx, l)
	})
	return l, located, err
}

// treeUnpack is an UnpackTree under way. The tree is gone through twice: names are made,
// and when content has come all gets its look.
type treeUnpack struct {
	d     *Copy
	spec  *TreeSpec
	dir   string
	whole Tree // with sources: what lies below dir is new
	b     *builder
	links linkGroups
	paths pathTable // of what is new
}

func (u *treeUnpack) run(ctx context.Context, l *Layer) (err error) {
	if err := os.Mkdir(u.dir, 0o700); err != nil {
		return err
	}
	if u.b, err = newBuilder(u.dir, u.d.owners, u.spec.Meter); err != nil {
		return err
	}
	defer u.b.p.close()
	u.b.content = u.d.content
	if !u.d.super {
		u.b.hidden = modes{}
	}
	if err := u.spec.New(func(e *snapshot.Entry) error {
		u.paths.add(e.Path, e.Type == snapshot.TypeFile)
		return nil
	}); err != nil {
		return err
	}
	if err := u.each(ctx, u.make); err != nil {
		return err
	}
	fail.Point("view.unpack.names")
	if err := u.spec.Fill(ctx, u.write); err != nil {
		return err
	}
	fail.Point("view.unpack.filled")
	if err := u.each(ctx, u.look); err != nil {
		return err
	}
	return u.d.writeModes(l.ID, u.b.hidden)
}

func (u *treeUnpack) each(ctx context.Context, fn func(ctx context.Context, e *snapshot.Entry) error) error {
	n := 0
	return u.whole(func(e *snapshot.Entry) error {
		if n%256 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n++
		if err := fn(ctx, e); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		return nil
	})
}

// isNew reports whether a file's content is to come.
func (u *treeUnpack) isNew(e *snapshot.Entry) bool {
	return e.Type == snapshot.TypeFile && strings.HasPrefix(e.Source, u.dir+string(filepath.Separator))
}

// make makes a name. A file whose content is to come is all hole.
func (u *treeUnpack) make(ctx context.Context, e *snapshot.Entry) error {
	switch {
	case e.Path == "":
		return nil
	case e.Type == snapshot.TypeDir:
		return u.b.p.mkdir(e.Path)
	case e.Type != snapshot.TypeFile:
		return u.b.place(e, nil)
	case e.Size < 0:
		return fmt.Errorf("size %d", e.Size)
	}
	first, err := u.links.first(e)
	if err != nil {
		return err
	}
	if first != "" {
		return u.b.link(first, e)
	}
	if !u.isNew(e) {
		return u.b.place(e, func(f *os.File) error { return u.copy(ctx, f, e) })
	}
	f, err := u.b.p.create(e.Path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // synced as a whole, where errors are seen
	return f.Truncate(e.Size)
}

// copy fills f with what the host has.
func (u *treeUnpack) copy(ctx context.Context, f *os.File, e *snapshot.Entry) error {
	switch {
	case e.Size == 0:
		return nil
	case e.Source == "":
		return &snapshot.CorruptError{What: "tree", Name: e.Path, Why: "its content is not on this host"}
	}
	return u.d.source(ctx, f, e, u.spec.Meter)
}

// look gives what make made its look, but for what has it.
func (u *treeUnpack) look(_ context.Context, e *snapshot.Entry) error {
	if e.Type != snapshot.TypeDir && e.Type != snapshot.TypeFile {
		return nil
	}
	on := u.b.look(e) // also of further names: they were linked before the mode was known
	if e.Type == snapshot.TypeDir || u.isNew(e) && e.FirstLink() {
		return u.b.p.meta(e.Path, on)
	}
	return nil
}

// write is the PiecesFunc.
func (u *treeUnpack) write(pieces ...snapshot.Piece) error {
	for len(pieces) > 0 {
		n := 1
		for n < len(pieces) && pieces[n].Change == pieces[0].Change {
			n++
		}
		if err := u.writeFile(pieces[:n]); err != nil {
			return err
		}
		pieces = pieces[n:]
	}
	return nil
}

// writeFile writes pieces of one file.
func (u *treeUnpack) writeFile(pieces []snapshot.Piece) (err error) {
	to, ok := u.paths.find(pieces[0].Change)
	if !ok {
		return fmt.Errorf("write to entry %d of %d, which is no file", pieces[0].Change, u.paths.n)
	}
	file, err := u.b.p.open(to, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := file.Close(); err == nil && cerr != nil {
			err = &os.PathError{Op: "close", Path: to, Err: cerr}
		}
	}()
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if size := fi.Size(); p.Off < 0 || p.Off > size || int64(len(p.Bytes)) > size-p.Off {
			return fmt.Errorf("write to %q: bytes %d to %d of %d", to, p.Off, p.Off+int64(len(p.Bytes)), size)
		}
		n, err := durable.WriteAt(file, p.Bytes, p.Off)
		u.spec.Meter.Add(int64(n))
		if err != nil {
			return err
		}
	}
	return nil
}
