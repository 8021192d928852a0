package view

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

// imaging is the making of one image: it knows where each file's bytes are, as
// the image's mount and the overlay above it reach them.
type imaging struct {
	layout
	id     snapshot.ID // whose image it is
	prefix string      // views/, absolute
	tree   Tree

	devices []string       // tags (bundleAt)
	bundles []string       // the same, relative to the root
	files   []int          // the same: files whose content lies there
	device  map[string]int // by tag
	data    map[string]int // by id: files whose content lies below views/<id>
	small   map[string]int // by id: those among them that a bundle could hold
	copied  map[string]string
	extent  [1]erofs.Extent
	hash    *keyHash

	scratchFrom int64 // Options

	// Of the last file, as neighbours lie together.
	lastTag string
	lastDev int
}

// where says how the content of a file is reached.
type where uint8

const (
	inBundle where = iota
	inObject
	inCopy // neither of both: the image can't refer to it
)

// hasContent reports whether e's content has to be reached: it is a file, not an
// empty one, and the first name of it.
func hasContent(e *snapshot.Entry) bool {
	return e.Type == snapshot.TypeFile && e.Size > 0 && e.FirstLink()
}

func (d *Overlay) newImaging(id snapshot.ID, t Tree) *imaging {
	return &imaging{
		layout: d.layout, id: id, prefix: filepath.Join(d.root, viewsDir) + "/", tree: t,
		device: map[string]int{}, data: map[string]int{}, small: map[string]int{}, copied: map[string]string{}, lastDev: -1,
		hash: newKeyHash(), scratchFrom: d.o.ScratchFrom,
	}
}

// locate takes a file's source apart: views/<id> and the path below that, which
// begins with a slash. Nothing is allocated.
func (g *imaging) locate(e *snapshot.Entry) (at where, id, in string) {
	rel, ok := strings.CutPrefix(e.Source, g.prefix)
	if !ok {
		return inCopy, "", ""
	}
	id, _, ok = strings.Cut(rel, "/")
	if !ok {
		return inCopy, "", ""
	}
	in = rel[len(id):]
	// The name of the directory below views/<id> has the id in it: whatever else
	// a tree has in its root, an absolute redirect can't be taken for that.
	if len(in) < 3+len(id) || in[2:2+len(id)] != id || in[2+len(id)] != '/' {
		return inCopy, "", ""
	}
	if e.SourceAt == 0 {
		return inObject, id, in
	}
	if p := in[1:2]; (p == upperPrefix || p == gatherPrefix) && in[3+len(id):] == bundleName {
		return inBundle, id, in
	}
	return inCopy, "", ""
}

// tagOf is the tag of the bundle at in below views/<id>.
func tagOf(id, in string) string {
	if in[1:2] == gatherPrefix {
		return in[1 : 2+len(id)]
	}
	return id
}

// survey finds all devices and data directories, and what has to be copied, and
// hashes the tree for a key.
func (g *imaging) survey(ctx context.Context) (odd []snapshot.Entry, err error) {
	i := 0
	err = g.tree(func(e *snapshot.Entry) error {
		if i%1024 == 0 {
			quiet.Step(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		i++
		g.hash.entry(e)
		if !hasContent(e) {
			g.hash.nowhere()
			return nil
		}
		isOdd, err := g.surveyFile(e)
		if isOdd {
			odd = append(odd, *e)
		}
		return err
	})
	return odd, err
}

// surveyFile does it for a file, and reports whether its content has to be copied.
func (g *imaging) surveyFile(e *snapshot.Entry) (odd bool, err error) {
	at, id, in := g.locate(e)
	switch at {
	case inBundle:
		n, err := g.deviceOf(tagOf(id, in))
		if err != nil {
			return false, fmt.Errorf("%q: %w", e.Path, err)
		}
		g.files[n]++
		g.hash.bundle(tagOf(id, in), e.SourceAt)
		return false, nil
	case inObject:
		if erofs.CheckObject(in) == nil {
			g.hash.object(e, id, in)
			if g.data[id]++; g.data[id] == 1 {
				if _, err := snapshot.ParseID(id); err != nil {
					return false, fmt.Errorf("%q: source %q: %w", e.Path, e.Source, err)
				}
			}
			if e.Size < bundleMost && !hasHoles(e) {
				g.small[id]++
			}
			return false, nil
		}
	case inCopy:
	}
	if e.Source == "" {
		return false, &snapshot.CorruptError{What: "tree", Name: e.Path, Why: "its content is not on this host"}
	}
	return true, nil
}

func (g *imaging) deviceOf(tag string) (int, error) {
	if tag == g.lastTag {
		return g.lastDev, nil
	}
	n, ok := g.device[tag]
	if !ok {
		at, err := bundleAt(tag)
		if err != nil {
			return 0, err
		}
		n = len(g.devices)
		g.device[tag], g.devices, g.bundles, g.files = n, append(g.devices, tag), append(g.bundles, at), append(g.files, 0)
	}
	g.lastTag, g.lastDev = tag, n
	return n, nil
}

// place is for erofs.Entries.
func (g *imaging) place(e *snapshot.Entry) (erofs.Content, error) {
	if !hasContent(e) {
		return erofs.Content{}, nil
	}
	at, id, in := g.locate(e)
	switch at {
	case inBundle:
		if len(g.copied) > 0 {
			if to, ok := g.copied[sourceKey(e)]; ok {
				return erofs.Content{Object: to}, nil
			}
		}
		n, err := g.deviceOf(tagOf(id, in))
		if err != nil {
			return erofs.Content{}, err
		}
		g.extent[0] = erofs.Extent{Len: e.Size, Device: n, At: e.SourceAt}
		return erofs.Content{Extents: g.extent[:]}, nil
	case inObject:
		if len(g.copied) == 0 {
			return erofs.Content{Object: in}, nil
		}
	case inCopy:
	}
	if to, ok := g.copied[sourceKey(e)]; ok {
		return erofs.Content{Object: to}, nil
	}
	return erofs.Content{Object: in}, nil
}

func sourceKey(e *snapshot.Entry) string { return fmt.Sprintf("%d@%s", e.SourceAt, e.Source) }

// checkOwn makes sure that the layer's own files are as large as the tree says: a
// short one would read short without an error, as objects do. They never
// change once their layer is sealed, so each is looked at once, by the image of
// its own layer. Bundles are checked before every mount.
func (g *imaging) checkOwn() error {
	own := part(g.id, upperPrefix)
	prefix := "/" + path.Base(own) + "/"
	if g.data[string(g.id)] == 0 {
		return nil
	}
	var p *placer
	err := g.tree(func(e *snapshot.Entry) (err error) {
		if !hasContent(e) {
			return nil
		}
		at, _, in := g.locate(e)
		rel, ok := strings.CutPrefix(in, prefix)
		if at != inObject || !ok {
			return nil
		}
		if p == nil {
			if p, err = newPlacer(g.abs(own), false); err != nil {
				return err
			}
		}
		if !p.fileOf(rel, e.Size) {
			return &snapshot.CorruptError{What: "file", Name: e.Source, Why: fmt.Sprintf("not a file of %d bytes any more", e.Size)}
		}
		return nil
	})
	if p != nil {
		p.close()
	}
	return err
}
