//go:build !unix

package view

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// placer makes entries below a directory that nobody else writes to, by os.Root,
// which lets no path lead out of it. See place_unix.go for the promises.
type placer struct {
	root   string
	owners bool
	r      *os.Root
}

func newPlacer(root string, owners bool) (*placer, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	return &placer{root: root, owners: owners, r: r}, nil
}

func (p *placer) close() {
	p.r.Close() //nolint:errcheck // a directory
}

// split checks a path and cuts it into directory and name. Besides what is bad
// everywhere it refuses what this system reads in another way than it is meant.
func split(rel string) (dir, name string, err error) {
	if rel == "" || len(rel) > snapshot.MaxPathBytes || strings.ContainsAny(rel, "\x00\\:") || !filepath.IsLocal(filepath.FromSlash(rel)) {
		return "", "", fmt.Errorf("path %.80q: empty, too long or not possible on this system", rel)
	}
	for c := range strings.SplitSeq(rel, "/") {
		if c == "" || c == "." || c == ".." || len(c) > snapshot.MaxNameBytes {
			return "", "", fmt.Errorf("path %.80q: bad component %.40q", rel, c)
		}
	}
	dir, name = path.Split(rel)
	return strings.TrimSuffix(dir, "/"), name, nil
}

// plain checks that all of rel's directories are directories, not links.
func (p *placer) plain(rel string) error {
	dir, _, err := split(rel)
	if err != nil {
		return err
	}
	for d := dir; d != "" && d != "."; d = path.Dir(d) {
		fi, err := p.r.Lstat(d)
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return fmt.Errorf("%q is not a directory", d)
		}
	}
	return nil
}

func (p *placer) fileOf(rel string, size int64) bool {
	if p.plain(rel) != nil {
		return false
	}
	fi, err := p.r.Lstat(rel)
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size
}

func (p *placer) mkdir(rel string) error {
	if err := p.plain(rel); err != nil {
		return err
	}
	return snapshot.Taken(p.r.Mkdir(rel, 0o700))
}

func (p *placer) create(rel string) (*os.File, error) {
	if err := p.plain(rel); err != nil {
		return nil, err
	}
	f, err := p.r.OpenFile(rel, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return f, snapshot.Taken(err)
}

func (p *placer) symlink(target, rel string) error {
	if err := p.plain(rel); err != nil {
		return err
	}
	return snapshot.Taken(p.r.Symlink(target, rel))
}

func (p *placer) link(old, rel string) error {
	if err := p.plain(rel); err != nil {
		return err
	}
	return snapshot.Taken(p.r.Link(old, rel))
}

func (p *placer) node(rel string, t snapshot.Type) error {
	return &snapshot.UnsupportedError{Path: rel, What: t.String() + " on this system"}
}

func (p *placer) removeAll(_ context.Context, _ layout, rel string) error {
	if err := p.plain(rel); err != nil {
		return err
	}
	return p.r.RemoveAll(rel)
}

func (p *placer) open(rel string, flags int) (*os.File, error) {
	if rel == "" {
		return p.r.Open(".")
	}
	if err := p.plain(rel); err != nil {
		return nil, err
	}
	fi, err := p.r.Lstat(rel)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() && !fi.IsDir() {
		return nil, fmt.Errorf("%q is neither a file nor a directory", rel)
	}
	return p.r.OpenFile(rel, flags, 0)
}

// meta sets what this system can keep: the right to write, and the time.
func (p *placer) meta(rel string, e *snapshot.Entry) error {
	if e.Type != snapshot.TypeDir && e.Type != snapshot.TypeFile {
		return nil
	}
	name := rel
	if name == "" {
		name = "."
	}
	t := time.Unix(0, e.MTime)
	if err := p.r.Chtimes(name, t, t); err != nil {
		return err
	}
	if e.Type == snapshot.TypeDir {
		return nil
	}
	return p.r.Chmod(name, fileMode(e.Mode))
}

func (p *placer) metaFD(f *os.File, e *snapshot.Entry) error {
	return p.meta(e.Path, e)
}
