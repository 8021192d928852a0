package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// checkup reads one layer.
type checkup struct {
	x     *scrubber
	l     *layer
	in    Info
	found []Damage
	fell  bool // it was made suspect on the way

	ix   *pack.Index
	tree *snapshot.Manifest // of the layer, with sources
}

func (c *checkup) add(d Damage) {
	d.Layer = c.in.ID
	c.found = append(c.found, d)
}

// fix notes a damage and tries to repair it, unless it must only be looked at.
func (c *checkup) fix(ctx context.Context, d Damage, repair func(context.Context) (from string, err error)) bool {
	if c.x.o.NoRepair {
		d.Left = "it was only looked at"
		c.add(d)
		return false
	}
	from, err := repair(ctx)
	if err != nil {
		d.Left = err.Error()
	} else {
		d.From = from
	}
	c.add(d)
	return err == nil
}

// good reports whether a large layer is in order, all but its packs, without anything of
// its lists in memory. Of a small one, and of one that is not, all finds out what is wrong.
func (c *checkup) good(ctx context.Context) bool {
	s := c.x.s
	pace := func(n int64) error { return c.x.pace.took(ctx, n) }
	var err error
	switch {
	case c.l.stored() && s.isLarge("", int(c.in.Entries)):
		err = s.verifyLists(&c.in)
	case !c.l.stored() && s.shownInParts(c.l, &c.in):
		err = s.verifyInParts(ctx, c.l, &c.in, pace)
	default:
		return false
	}
	if err == nil {
		err = pace(c.in.IndexBytes)
	}
	return err == nil && c.packs(ctx) == nil
}

// all looks at one thing after the other, each by the help of those before.
func (c *checkup) all(ctx context.Context) error {
	if ok, err := c.index(ctx); !ok {
		return err
	}
	if ok, err := c.manifest(ctx); !ok {
		return err
	}
	if err := c.packs(ctx); err != nil || c.l.stored() {
		return err
	}
	if ok, err := c.sources(ctx); !ok {
		return err
	}
	if err := c.names(ctx); err != nil {
		return err
	}
	return c.content(ctx)
}

// index reads the index.
func (c *checkup) index(ctx context.Context) (ok bool, err error) {
	s := c.x.s
	if c.ix, err = s.readIndex(c.in.Index); err == nil {
		return true, c.x.pace.took(ctx, c.in.IndexBytes)
	}
	why := asCorrupt(err)
	if why == "" {
		why = err.Error()
	}
	if !c.fix(ctx, Damage{What: "index", Name: c.in.Index.String(), Why: why}, c.remakeIndex) {
		return false, nil
	}
	c.ix, err = s.readIndex(c.in.Index)
	return err == nil, err
}

func (c *checkup) manifest(ctx context.Context) (ok bool, err error) {
	s := c.x.s
	if c.tree, err = s.readManifest(c.in.Manifest); err == nil {
		return true, nil
	}
	why := asCorrupt(err)
	if why == "" {
		why = err.Error()
	}
	if !c.fix(ctx, Damage{What: "manifest", Name: c.in.Manifest.String(), Why: why}, c.remakeManifest) {
		return false, nil
	}
	c.tree, err = s.readManifest(c.in.Manifest)
	return err == nil, err
}

// packs reads those that are here, and looks for those that must be.
func (c *checkup) packs(ctx context.Context) error {
	s := c.x.s
	for _, p := range c.l.packs {
		if c.x.packs[p.Digest] {
			continue
		}
		s.mu.Lock()
		_, here := s.have[p.Digest]
		must := p.Own && (c.l.stored() || s.stateLocked(c.l) != Durable)
		s.mu.Unlock()
		if !here && !must {
			continue
		}
		why, err := c.readPack(ctx, p)
		if err != nil {
			return err
		}
		if why != "" && (must || s.needs(p.Digest)) { // else it went to the blob store meanwhile
			c.fix(ctx, Damage{What: "pack", Name: p.Digest.String(), Why: why},
				func(ctx context.Context) (string, error) { return c.remakePack(ctx, p.Digest) })
		}
		c.x.packs[p.Digest] = true
	}
	return nil
}

// stateLocked is the state that l is in, or was in before it was suspect.
func (s *Store) stateLocked(l *layer) State {
	if l.info.State == Suspect && l.use.was != "" {
		return l.use.was
	}
	return l.info.State
}

// readPack returns what is wrong with a pack, "" if nothing is.
func (c *checkup) readPack(ctx context.Context, p pack.Pack) (why string, err error) {
	f, err := os.Open(c.x.s.packPath(p.Digest))
	if errors.Is(err, os.ErrNotExist) {
		return "the file is gone", nil
	}
	if err != nil {
		return err.Error(), nil
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if perr := c.x.pace.took(ctx, int64(n)); perr != nil {
			return "", perr
		}
		if err == io.EOF { //nolint:errorlint // files give it unwrapped
			break
		}
		if err != nil {
			return err.Error(), nil
		}
	}
	if got := snapshot.Digest(h.Sum(nil)); got != p.Digest {
		return "its digest is " + got.String(), nil
	}
	return "", nil
}

// sources reads where the files are; that can be found out again.
func (c *checkup) sources(ctx context.Context) (ok bool, err error) {
	s := c.x.s
	err = s.readSources(c.in.ID, c.in.Manifest, c.tree)
	if err == nil {
		return true, nil
	}
	return c.fix(ctx, Damage{What: "sources", Name: string(c.in.ID), Why: err.Error()}, func(ctx context.Context) (string, error) {
		m, err := s.readManifest(c.in.Manifest) // err left the other half filled
		if err != nil {
			return "", err
		}
		if err := s.findSources(ctx, c.l, m); err != nil {
			return "", err
		}
		c.tree = m
		return fromFiles, s.writeSources(c.in.ID, c.in.Manifest, m)
	}), nil
}

// names compares what the layer shows with the manifest, but for what is in the
// files. An image can be made again from the manifest; what is wrong in directories
// can't be repaired in place: a view may be standing on it.
func (c *checkup) names(ctx context.Context) error {
	err := c.x.s.verifyNames(ctx, c.l, c.tree)
	if err == nil || ctx.Err() != nil {
		return err
	}
	why := asCorrupt(err)
	if why == "" {
		why = err.Error()
	}
	c.fallen(ctx, why)
	if c.l.place().Image != "" {
		c.fix(ctx, Damage{What: "image", Name: string(c.in.ID), Why: why}, func(ctx context.Context) (string, error) {
			if err := c.x.s.imageAgain(ctx, c.l, c.tree); err != nil {
				return "", err
			}
			return fromManifest, c.x.s.verifyNames(ctx, c.l, c.tree)
		})
		return nil
	}
	c.add(Damage{What: "names", Name: string(c.in.ID), Why: why, Left: "names and modes are not repaired in place"})
	return nil
}

// content reads the files that the layer brought.
func (c *checkup) content(ctx context.Context) error {
	changes, base, err := c.brought(ctx)
	if err != nil {
		return err
	}
	linked := map[string]bool{}
	for i := range changes {
		ch := &changes[i]
		if ch.Delete || ch.Entry.Type != snapshot.TypeFile || ch.Entry.Size == 0 || sameFile(base, c.tree, ch.Entry.Path) {
			continue
		}
		e, ok := c.tree.Find(ch.Entry.Path)
		if !ok {
			c.add(Damage{What: "manifest", Name: c.in.Manifest.String(), Why: fmt.Sprintf("it lacks %q, which the index has", ch.Entry.Path), Left: "they don't fit"})
			continue
		}
		if e.Link != "" {
			if linked[e.Link] {
				continue
			}
			linked[e.Link] = true
		}
		if err := c.file(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// brought lists the changes whose content lies with the layer itself, and the tree of
// which the rest is.
func (c *checkup) brought(ctx context.Context) ([]snapshot.Change, *snapshot.Manifest, error) {
	switch {
	case c.in.WireBase == c.in.Base:
		return c.ix.Changes, nil, nil
	case c.in.Base == "":
		return tree.Diff(nil, c.tree), nil, nil
	}
	base, err := c.x.s.Tree(ctx, c.in.Base)
	return c.ix.Changes, base, err
}

// file reads one file and repairs what is wrong in it.
func (c *checkup) file(ctx context.Context, e *snapshot.Entry) error {
	bad, err := pack.Examine(ctx, c.l.key, e, func(n int64) error { return c.x.pace.took(ctx, n) })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil && len(bad) == 0 {
		return nil
	}
	d := Damage{What: "content", Name: e.Path}
	if err != nil {
		if d.Why = asCorrupt(err); d.Why == "" {
			d.Why = err.Error()
		}
		d.Left = "a file that is not there, or of another size, is not repaired in place"
		c.fallen(ctx, d.Why)
		c.add(d)
		return nil
	}
	d.Why = fmt.Sprintf("%d run(s), the first of %d bytes at %d", len(bad), bad[0].Len, bad[0].Off)
	c.fallen(ctx, d.Why)
	c.fix(ctx, d, func(ctx context.Context) (string, error) { return c.refill(ctx, e, bad) })
	return nil
}

// fallen makes the layer suspect while its files are wrong, and what jobs leave that
// run on it now.
func (c *checkup) fallen(ctx context.Context, why string) {
	if c.fell {
		return
	}
	c.fell = true
	c.x.s.fallen(ctx, c.l, errors.New("damaged: "+why))
	c.x.s.doubt(c.l, "ran on "+string(c.in.ID)+", of which a file was damaged")
}
