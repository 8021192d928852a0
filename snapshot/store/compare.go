package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// Difference is one path that two snapshots don't have alike.
type Difference struct {
	Change string // A: only in the second; D: only in the first; M: in both
	Path   string
	Type   snapshot.Type // in the second, of D in the first
	// What differs, of M: type, content, mode, owner, mtime, target, xattrs, links.
	What []string
}

// Compare calls fn for each difference between the trees of a and b in the order
// of a manifest; the root is "". Files are compared by content: where their chunks
// were cut at different places they are read. An error of fn ends it.
func (s *Store) Compare(ctx context.Context, a, b snapshot.ID, fn func(Difference) error) error {
	defer s.reading()()
	release, err := s.Hold(ctx, a, b)
	if err != nil {
		return err
	}
	defer release()
	c := comparing{s: s}
	for i, id := range []snapshot.ID{a, b} {
		if err := c.side[i].open(s, id); err != nil {
			return fmt.Errorf("compare: %w", err)
		}
		defer lean(int(c.side[i].l.info.Entries))()
	}
	c.sameKey = string(c.side[0].key) == string(c.side[1].key)
	if err := c.run(ctx, fn); err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	return nil
}

// comparing is a Compare under way.
type comparing struct {
	s       *Store
	side    [2]side
	sameKey bool
}

// side is one of two snapshots.
type side struct {
	id    snapshot.ID
	l     *layer
	key   []byte
	where *locator          // once a file had to be read
	group map[string]string // of hard links: Link to the first name that both trees have
}

func (d *side) open(s *Store, id snapshot.ID) (err error) {
	d.id = id
	if d.key, err = s.KeyOf(id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.l, err = s.usableLocked(id)
	return err
}

// together calls fn with each path, and what the sides have there; nil: nothing.
func (c *comparing) together(ctx context.Context, fn func(a, b *snapshot.Entry) error) error {
	var at [2]beside
	for i := range at {
		t, err := c.s.openTree(ctx, c.side[i].l)
		if err != nil {
			return err
		}
		defer t.close()
		at[i] = beside{t: t}
		if err := at[i].step(); err != nil {
			return err
		}
	}
	a, b := &at[0], &at[1]
	for a.more || b.more {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		o := a.order(b)
		var x, y *snapshot.Entry
		if o <= 0 {
			x = &a.e
		}
		if o >= 0 {
			y = &b.e
		}
		if err := fn(x, y); err != nil {
			return err
		}
		if x != nil {
			if err := a.step(); err != nil {
				return err
			}
		}
		if y != nil {
			if err := b.step(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *comparing) run(ctx context.Context, fn func(Difference) error) error {
	if err := c.groups(ctx); err != nil {
		return err
	}
	return c.together(ctx, func(a, b *snapshot.Entry) error {
		switch {
		case b == nil:
			return fn(Difference{Change: "D", Path: a.Path, Type: a.Type})
		case a == nil:
			return fn(Difference{Change: "A", Path: b.Path, Type: b.Type})
		}
		what, err := c.what(ctx, a, b)
		if err != nil || len(what) == 0 {
			return err
		}
		return fn(Difference{Change: "M", Path: b.Path, Type: b.Type, What: what})
	})
}

// order says which list has the next path; 0: both.
func (b *beside) order(o *beside) int {
	switch {
	case !b.more:
		return 1
	case !o.more:
		return -1
	}
	return snapshot.ComparePaths(b.e.Path, o.e.Path)
}

// groups names each group of hard links by the first of its names that both trees
// have: else every name would differ when the first one of all goes.
func (c *comparing) groups(ctx context.Context) error {
	count := [2]map[string]int{{}, {}}
	c.side[0].group, c.side[1].group = map[string]string{}, map[string]string{}
	err := c.together(ctx, func(a, b *snapshot.Entry) error {
		if a == nil || b == nil {
			return nil
		}
		for i, e := range []*snapshot.Entry{a, b} {
			if e.Link == "" {
				continue
			}
			if count[i][e.Link]++; count[i][e.Link] == 1 {
				c.side[i].group[e.Link] = e.Path
			}
		}
		return nil
	})
	for i := range count {
		for link, n := range count[i] {
			if n == 1 {
				delete(c.side[i].group, link)
			}
		}
	}
	return err
}

// what lists in what two entries at one path differ.
func (c *comparing) what(ctx context.Context, a, b *snapshot.Entry) ([]string, error) {
	if a.Type != b.Type {
		return []string{"type"}, nil
	}
	var out []string
	if a.Type == snapshot.TypeFile {
		same, err := c.content(ctx, a, b)
		if err != nil {
			return nil, err
		}
		if !same {
			out = append(out, "content")
		}
	}
	for _, d := range []struct {
		name   string
		differ bool
	}{
		{"mode", a.Mode != b.Mode},
		{"owner", a.UID != b.UID || a.GID != b.GID},
		{"mtime", a.MTime != b.MTime},
		{"target", a.Target != b.Target},
		{"xattrs", !snapshot.EqualXattrs(a.Xattrs, b.Xattrs)},
		{"links", c.side[0].group[a.Link] != c.side[1].group[b.Link]},
	} {
		if d.differ {
			out = append(out, d.name)
		}
	}
	return out, nil
}

// content reports whether two files hold the same bytes.
func (c *comparing) content(ctx context.Context, a, b *snapshot.Entry) (bool, error) {
	if a.Size != b.Size {
		return false, nil
	}
	if c.sameKey {
		if a.SameContent(b) {
			return true, nil
		}
		if a.KnownToDiffer(b) {
			return false, nil
		}
	}
	x, y := *a, *b
	for i, e := range []*snapshot.Entry{&x, &y} {
		if e.Source == "" {
			drop, err := c.side[i].unpack(ctx, c.s, e)
			if err != nil {
				return false, fmt.Errorf("%q: %w", e.Path, err)
			}
			defer drop()
		}
		e.Chunks = nil // the bytes decide
	}
	return pack.Same(ctx, c.side[0].key, &x, &y)
}

// unpack writes the content of one file to a temporary one, and makes that its
// source.
func (d *side) unpack(ctx context.Context, s *Store, e *snapshot.Entry) (drop func(), err error) {
	if d.where == nil {
		chain, err := s.wireChain(d.id)
		if err != nil {
			return nil, err
		}
		d.where = s.locate(chain)
	}
	one := *e
	one.Link = ""
	ix, err := s.indexOf(ctx, d.key, d.where, &snapshot.Manifest{Entries: []snapshot.Entry{one}})
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "compare-*")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	drop = func() { removeFile(f.Name(), s.log) }
	if err := f.Truncate(e.Size); err != nil {
		drop()
		return nil, err
	}
	o := pack.ExtractOptions{Key: d.key, Workers: s.o.Workers, Open: s.OpenRange}
	err = pack.Extract(ctx, ix, o, func(_ int, off int64, p []byte) error {
		_, err := f.WriteAt(p, off)
		return err
	})
	if err != nil {
		drop()
		return nil, err
	}
	e.Source, e.SourceAt = f.Name(), 0
	return drop, nil
}
