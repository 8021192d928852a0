package view

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// What a driver keeps below its root:
//
//	views/<id>/u<id>   what the view's job wrote; the layer's own files
//	views/<id>/f<id>   overlay: the fix-up layer of a fan-in
//	views/<id>/m<id>   overlay: what a stack that grew too high was flattened to
//	views/<id>/w       overlay: the kernel's work directory while mounted
//	views/<id>/b       a read-only mount of the base while a layer is built
//	views/<id>/meta    copy: stamps and modes (copymeta.go)
//	views/<id>/i<id>   erofs: the image of the layer
//	views/<id>/s<id>   erofs: the image of the merge that the view started from
//	views/<id>/o<id>   erofs: copies of what the images can't refer to
//	views/<id>/packed  erofs: says that u<id> is not a tree (erofs_bundle_linux.go)
//	views/<id>/c<id>   erofs: the bundle of u<id>'s small files (erofs_gather_linux.go)
//	views/<id>/pruned  erofs: says that those are nowhere else
//	mnt/               erofs: images that are mounted
//	images/            erofs: further names of images, by key (erofs_cache_linux.go)
//	trash/             what is being deleted
//	empty              a directory with nothing in it, the lowest of every stack
//
// A layer's directory carries the id a second time because an overlay reaches
// files of other layers as /u<id>/path below views/<id>: that name must not exist
// in any other layer.
const (
	viewsDir = "views"
	trashDir = "trash"
	emptyDir = "empty"
	mntDir   = "mnt"

	imagesDir = "images"

	upperPrefix = "u"
	fixupPrefix = "f"
	flatPrefix  = "m"
	workName    = "w"
	baseName    = "b"
	metaName    = "meta"

	imagePrefix  = "i"
	startPrefix  = "s"
	objectPrefix = "o"
	gatherPrefix = "c"
	bundleName   = "bundle"
	packedName   = "packed"
	prunedName   = "pruned"
)

// layout resolves the names below one driver's root.
type layout struct{ root string }

// openLayout makes the directories that every driver needs. It does not create
// root's parents durably: that is the store's business.
func openLayout(root string) (layout, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return layout{}, fmt.Errorf("view root: %w", err)
	}
	if err := durable.MkdirAll(abs, 0o700); err != nil {
		return layout{}, fmt.Errorf("view root: %w", err)
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return layout{}, fmt.Errorf("view root: %w", err)
	}
	l := layout{root: abs}
	if err := os.Mkdir(l.abs(emptyDir), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return layout{}, fmt.Errorf("view root: %w", err)
	}
	if err := durable.MkdirEach(abs, 0o700, viewsDir, trashDir); err != nil {
		return layout{}, fmt.Errorf("view root: %w", err)
	}
	return l, nil
}

func (l layout) abs(rel string) string { return filepath.Join(l.root, filepath.FromSlash(rel)) }

// dir is the directory of everything that belongs to id.
func (l layout) dir(id snapshot.ID) string { return filepath.Join(l.root, viewsDir, string(id)) }

// part is one directory of id, relative to the root.
func part(id snapshot.ID, prefix string) string {
	return path.Join(viewsDir, string(id), prefix+string(id))
}

// owner checks that rel is the directory of one layer of a stack, and returns
// whose.
func owner(rel string) (snapshot.ID, error) {
	return partOwner(rel, upperPrefix+fixupPrefix+flatPrefix)
}

// partOwner checks that rel has the form views/<id>/<prefix><id> and returns the
// id. Layers come back from a database: nothing in them becomes a path unchecked.
func partOwner(rel, prefixes string) (snapshot.ID, error) {
	p := strings.Split(rel, "/")
	if len(p) != 3 || p[0] != viewsDir || len(p[2]) < 2 {
		return "", fmt.Errorf("layer directory %q: want %s/<id>/<part>", rel, viewsDir)
	}
	id, err := snapshot.ParseID(p[1])
	if err != nil {
		return "", fmt.Errorf("layer directory %q: %w", rel, err)
	}
	if prefix := p[2][:1]; p[2][1:] != string(id) || !strings.Contains(prefixes, prefix) {
		return "", fmt.Errorf("layer directory %q: %q is not a part of a layer", rel, p[2])
	}
	return id, nil
}

// dataOwner does the same for views/<id>.
func dataOwner(rel string) (snapshot.ID, error) {
	dir, name := path.Split(rel)
	if dir != viewsDir+"/" {
		return "", fmt.Errorf("data directory %q: want %s/<id>", rel, viewsDir)
	}
	return snapshot.ParseID(name)
}

// bundleOf is the bundle of id, relative to the root.
func bundleOf(id snapshot.ID) string { return path.Join(part(id, upperPrefix), bundleName) }

// gatheredOf is the bundle of the small files of id's upper.
func gatheredOf(id snapshot.ID) string { return path.Join(part(id, gatherPrefix), bundleName) }

// bundleOwner checks that rel is a bundle and returns whose.
func bundleOwner(rel string) (snapshot.ID, error) {
	id, err := partOwner(path.Dir(rel), upperPrefix+gatherPrefix)
	if err == nil && rel != bundleOf(id) && rel != gatheredOf(id) {
		err = fmt.Errorf("bundle %q: want %s/<id>/<part>/%s", rel, viewsDir, bundleName)
	}
	return id, err
}

// bundleAt is the bundle that has the tag in an image: the id, or the whole name of
// the directory c<id>.
func bundleAt(tag string) (string, error) {
	if id, ok := strings.CutPrefix(tag, gatherPrefix); ok {
		if id, err := snapshot.ParseID(id); err == nil {
			return gatheredOf(id), nil
		}
	}
	id, err := snapshot.ParseID(tag)
	if err != nil {
		return "", fmt.Errorf("bundle: %w", err)
	}
	return bundleOf(id), nil
}

// checkLayer refuses a layer whose paths lead anywhere but into the root.
func checkLayer(l *Layer) error {
	if l == nil {
		return nil
	}
	if _, err := snapshot.ParseID(string(l.ID)); err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	if id, err := owner(l.Dir); err != nil {
		return err
	} else if id != l.ID {
		return fmt.Errorf("layer %s: directory %q is another layer's", l.ID, l.Dir)
	}
	for _, d := range l.Lowers {
		if _, err := owner(d); err != nil {
			return err
		}
	}
	for _, d := range l.Data {
		if _, err := dataOwner(d); err != nil {
			return err
		}
	}
	for d := range l.Small {
		if _, err := dataOwner(d); err != nil {
			return err
		}
	}
	for _, d := range l.Devices {
		if _, err := bundleOwner(d); err != nil {
			return err
		}
	}
	if l.Image != "" {
		if _, err := partOwner(l.Image, imagePrefix+startPrefix); err != nil {
			return err
		}
	}
	return nil
}

// dropImages deletes what an earlier process kept in images/.
func (l layout) dropImages() error {
	names, err := readNames(l.abs(imagesDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, n := range names {
		err = errors.Join(err, os.Remove(filepath.Join(l.abs(imagesDir), n)))
	}
	return err
}

// imageDir returns views/<id> of the image that is mounted at p below mnt/.
func (l layout) imageDir(p string) (string, bool) {
	rel, ok := strings.CutPrefix(p, filepath.Join(l.root, mntDir)+"/")
	name, _, _ := strings.Cut(rel, ".")
	if !ok || len(name) < 2 {
		return "", false
	}
	id, err := snapshot.ParseID(name[1:])
	return l.dir(id), err == nil
}

// makeTarget makes the directory where a view appears, and refuses one that is
// not empty: a mount would hide what is in it, a move would fail on it. Jobs may
// write to the directory that it is in: a link there is no target, as it would
// have the view appear wherever it leads.
func makeTarget(target string) (string, error) {
	if !filepath.IsAbs(target) {
		return "", fmt.Errorf("view target %q: want an absolute path", target)
	}
	dir := filepath.Dir(filepath.Clean(target))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("view target: %w", err)
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("view target: %w", err)
	}
	target = filepath.Join(dir, filepath.Base(target))
	if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("view target: %w", err)
	}
	fi, err := os.Lstat(target)
	if err != nil {
		return "", fmt.Errorf("view target: %w", err)
	}
	if !fi.IsDir() {
		return "", fmt.Errorf("view target %s: not a directory", target)
	}
	d, err := os.Open(target)
	if err != nil {
		return "", fmt.Errorf("view target: %w", err)
	}
	defer d.Close() //nolint:errcheck // only read from
	if names, _ := d.Readdirnames(1); len(names) > 0 {
		return "", fmt.Errorf("view target %s: not empty", target)
	}
	return target, nil
}

// toTrash moves a path into the trash, where it can't be mistaken for anything
// that is alive, and returns its new name. A missing path is no error: "".
//
// Crash states: before the rename the thing is whole and still known; after it,
// Reconcile empties the trash.
func (l layout) toTrash(p string) (string, error) {
	if _, err := os.Lstat(p); err != nil {
		if os.IsNotExist(err) {
			return "", nil
		}
		return "", err
	}
	if err := allowMove(p); err != nil {
		return "", err
	}
	for n := 0; ; n++ {
		to := filepath.Join(l.root, trashDir, fmt.Sprintf("%s.%d", filepath.Base(p), n))
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		if err := moveGarbage(p, to); err != nil {
			return "", fmt.Errorf("move to trash: %w", err)
		}
		fail.Point("view.trashed")
		return to, nil
	}
}

// locate is Locate of every driver.
func locate(l layout, layer *Layer, changes []snapshot.Change) {
	dir := l.abs(layer.Dir)
	for i := range changes {
		if e := &changes[i].Entry; !changes[i].Delete && e.Type == snapshot.TypeFile {
			e.Source, e.SourceAt = filepath.Join(dir, filepath.FromSlash(e.Path)), 0
		}
	}
}
