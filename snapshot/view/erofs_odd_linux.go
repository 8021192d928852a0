package view

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// tooMany picks the entries to copy so that few enough data directories are left:
// those of the layers with the fewest files in the tree.
func (g *imaging) tooMany(most int) ([]snapshot.Entry, error) {
	if len(g.data) <= most {
		return nil, nil
	}
	ids := make([]string, 0, len(g.data))
	for id := range g.data {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int {
		if n := g.data[a] - g.data[b]; n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	drop := map[string]bool{}
	for _, id := range ids[:len(ids)-most] {
		drop[id] = true
		delete(g.data, id)
	}
	return g.those(func(at where, id, _ string) bool { return at == inObject && drop[id] })
}

// those are the files with content that pick picks by where they are.
func (g *imaging) those(pick func(at where, id, in string) bool) (out []snapshot.Entry, err error) {
	err = g.tree(func(e *snapshot.Entry) error {
		if hasContent(e) && pick(g.locate(e)) {
			out = append(out, *e)
		}
		return nil
	})
	return out, err
}

// tooManyBundles is the same for bundles, and takes those that it picks from the list
// of devices.
func (g *imaging) tooManyBundles(most int) ([]snapshot.Entry, error) {
	if len(g.devices) <= most {
		return nil, nil
	}
	order := make([]int, len(g.devices))
	for n := range order {
		order[n] = n
	}
	slices.SortFunc(order, func(a, b int) int {
		if n := g.files[a] - g.files[b]; n != 0 {
			return n
		}
		return strings.Compare(g.devices[a], g.devices[b])
	})
	drop := map[string]bool{}
	for _, n := range order[:len(order)-most] {
		drop[g.devices[n]] = true
	}
	tags, bundles, files := g.devices, g.bundles, g.files
	g.devices, g.bundles, g.files, g.device, g.lastTag = nil, nil, nil, map[string]int{}, ""
	for n, tag := range tags {
		if !drop[tag] {
			g.device[tag] = len(g.devices)
			g.devices, g.bundles, g.files = append(g.devices, tag), append(g.bundles, bundles[n]), append(g.files, files[n])
		}
	}
	return g.those(func(at where, id, in string) bool { return at == inBundle && drop[tagOf(id, in)] })
}

// odd are all that have to be copied: what can't be referred to, and what is too many.
func (g *imaging) odd(ctx context.Context, maxData, maxBundles int) ([]snapshot.Entry, error) {
	odd, err := g.survey(ctx)
	if err != nil {
		return nil, err
	}
	many, err := g.tooMany(maxData)
	if err != nil {
		return nil, err
	}
	bundles, err := g.tooManyBundles(maxBundles)
	return append(append(odd, many...), bundles...), err
}

// copyOdd copies what the image can't refer to into views/<id>/o<id>. A copy is
// named after its source, which never changes: one that is there is right.
//
// What an image of base has copied is not copied again, but has one name more: it is
// never shown by itself, so nobody sees a link's time.
func (g *imaging) copyOdd(ctx context.Context, odd []snapshot.Entry, base *Layer) error {
	if len(odd) == 0 {
		return nil
	}
	rel := part(g.id, objectPrefix)
	if err := durable.MkdirAll(g.abs(rel), 0o700); err != nil {
		return err
	}
	linked := false
	for i := range odd {
		e := &odd[i]
		key := sourceKey(e)
		if g.copied[key] != "" {
			continue
		}
		sum := sha256.Sum256([]byte(key))
		name := hex.EncodeToString(sum[:16])
		g.copied[key] = path.Join("/", objectPrefix+string(g.id), name)
		if fi, err := os.Lstat(g.abs(path.Join(rel, name))); err == nil && fi.Mode().IsRegular() && fi.Size() == e.Size {
			continue
		}
		if base != nil && base.ID != g.id && g.linkCopy(base, name, e.Size) {
			linked = true
			continue
		}
		if err := g.copyOne(ctx, e, g.abs(path.Join(rel, name))); err != nil {
			return fmt.Errorf("copy of %q: %w", e.Path, err)
		}
	}
	g.data[string(g.id)]++
	if linked {
		return durable.SyncDir(g.abs(rel))
	}
	return nil
}

// linkCopy takes a copy that base has.
func (g *imaging) linkCopy(base *Layer, name string, size int64) bool {
	from := g.abs(path.Join(part(base.ID, objectPrefix), name))
	fi, err := os.Lstat(from)
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size &&
		os.Link(from, g.abs(path.Join(part(g.id, objectPrefix), name))) == nil
}

func (g *imaging) copyOne(ctx context.Context, e *snapshot.Entry, to string) error {
	f, err := durable.Create(g.abs(trashDir))
	if err != nil {
		return err
	}
	defer f.Abort()
	src, err := g.open(e)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read from
	if e.SourceAt > 0 {
		err = copyRun(f.File, src, e, nil)
	} else {
		err = copyContent(ctx, f.File, src, e.Size, nil)
	}
	if err != nil {
		return err
	}
	return f.Commit(to)
}

// open opens a source. Its path may be longer than the kernel takes for one.
func (g *imaging) open(e *snapshot.Entry) (*os.File, error) {
	at, id, in := g.locate(e)
	if at != inObject {
		return openRegular(e.Source)
	}
	own, rest, _ := strings.Cut(in[1:], "/")
	p, err := newPlacer(filepath.Join(g.prefix, id, own), false)
	if err != nil {
		return nil, err
	}
	defer p.close()
	return p.open(rest, os.O_RDONLY)
}
