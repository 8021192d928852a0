package view

import (
	"errors"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

const (
	// mostKept and mostKeptBytes bound the images that the cache has.
	mostKept      = 64
	mostKeptBytes = 512 << 20
)

// imageCache keeps images by their keys, so that an equal tree gets none made: that of
// a job that changed nothing, a merge that was made before, for a retry too.
//
// images/<key> is a further name of a layer's or a view's own image. Taking one from
// there gives it one name more, in the directory of its new owner: each layer's image
// stays its own, goes with it, and is replaced without the others being touched. So
// nothing has to be counted, and what the cache has costs no room while an owner has
// it too. It has names of images alone that lead to layers which are held: with a
// layer go all images that lead to it, as its id may come back with other content.
// An earlier process's are deleted at the start.
type imageCache struct {
	layout
	log hclog.Logger

	maxImages int
	maxBytes  int64

	mu    sync.Mutex // guards what follows, and images/
	kept  []*keptImage
	bytes int64
}

// keptImage is images/<key>, and what an owner's Layer says of it.
type keptImage struct {
	layer Layer
	bytes int64
}

func newImageCache(l layout, o Options) *imageCache {
	return &imageCache{layout: l, log: o.Log, maxImages: mostKept, maxBytes: mostKeptBytes}
}

func keptName(key string) string { return path.Join(imagesDir, key) }

// find returns the image with the key, nil if there is none.
func (c *imageCache) find(key string) *Layer {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.indexLocked(key)
	if i < 0 {
		return nil
	}
	x := c.kept[i]
	c.kept = append(slices.Delete(c.kept, i, i+1), x)
	return &x.layer
}

func (c *imageCache) indexLocked(key string) int {
	return slices.IndexFunc(c.kept, func(x *keptImage) bool { return x.layer.Key == key })
}

// keep remembers the image of l.
func (c *imageCache) keep(l *Layer) {
	if l.Key == "" || checkKey(l.Key) != nil {
		return
	}
	fi, err := os.Lstat(c.abs(l.Image))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || fi.Size() > c.maxBytes || c.indexLocked(l.Key) >= 0 {
		return
	}
	for len(c.kept) > 0 && (len(c.kept) >= c.maxImages || c.bytes+fi.Size() > c.maxBytes) {
		c.dropLocked(0)
	}
	if err := os.Link(c.abs(l.Image), c.abs(keptName(l.Key))); err != nil {
		c.log.Debug("an image can't be kept for another tree like it", "image", l.Image, "err", err)
		return
	}
	x := &keptImage{layer: *l, bytes: fi.Size()}
	x.layer.Image = keptName(l.Key)
	c.kept, c.bytes = append(c.kept, x), c.bytes+x.bytes
}

func (c *imageCache) dropLocked(i int) {
	x := c.kept[i]
	if err := os.Remove(c.abs(x.layer.Image)); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.Warn("an image that nobody needs stays until the next start", "image", x.layer.Image, "err", err)
	}
	c.bytes -= x.bytes
	c.kept = slices.Delete(c.kept, i, i+1)
}

// drop forgets the image with the key.
func (c *imageCache) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.indexLocked(key); i >= 0 {
		c.dropLocked(i)
	}
}

// forget forgets all images that lead into what belongs to id, which will go.
func (c *imageCache) forget(id snapshot.ID) {
	dir := path.Join(viewsDir, string(id))
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.kept) - 1; i >= 0; i-- {
		l := &c.kept[i].layer
		if slices.Contains(l.Data, dir) || slices.Contains(l.Devices, bundleOf(id)) || slices.Contains(l.Devices, gatheredOf(id)) {
			c.dropLocked(i)
		}
	}
}

// empty forgets all.
func (c *imageCache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.kept) > 0 {
		c.dropLocked(len(c.kept) - 1)
	}
}

// reuse gives the image with the key one more name, to, and reports whether it did.
// It looks at the image of on, whose inode numbers were to be kept, and in the cache.
// What it takes has this key in it and its checksum right. With durably it is on disk,
// and takes the place of what was at to; else nothing may be there.
//
// Crash states: before the rename there is a name in the trash, after it the image is
// whole. Without durably all belongs to a view that is not made yet.
func (c *imageCache) reuse(key string, on *Layer, to string, durably bool) bool {
	if key == "" {
		return false
	}
	var from []string
	if on != nil && on.Key == key && on.Image != to {
		from = append(from, on.Image)
	}
	if x := c.find(key); x != nil {
		from = append(from, x.Image)
	}
	for _, rel := range from {
		err := c.link(rel, to, key, durably)
		if err == nil {
			return true
		}
		c.log.Debug("an image can't be used for another tree like it", "image", rel, "err", err)
		if rel == keptName(key) {
			c.drop(key)
		}
	}
	return false
}

func (c *imageCache) link(rel, to, key string, durably bool) (err error) {
	name := c.abs(to)
	if durably {
		name = c.abs(path.Join(trashDir, path.Base(to)+".link"))
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Link(c.abs(rel), name); err != nil {
		return err
	}
	defer func() {
		if err != nil || durably { // two names of one file are not renamed to one
			os.Remove(name) //nolint:errcheck // it is gone, or the trash's
		}
	}()
	// The file behind rel may have become another one by now.
	got, err := checkImage(name)
	if err != nil {
		return err
	}
	if got != key {
		return &snapshot.CorruptError{What: "image", Name: rel, Why: "it has another key"}
	}
	if !durably {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = errors.Join(f.Sync(), f.Close())
	if err != nil {
		return err
	}
	fail.Point("view.image.linked")
	return durable.Rename(name, c.abs(to))
}
