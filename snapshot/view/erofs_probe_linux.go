package view

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// probeErofs brings a small tree from elsewhere, shows it and lets a job write to
// it, all below root.
func probeErofs(root string) Probed {
	p := Probed{Name: NameErofs}
	if os.Geteuid() != 0 {
		p.Why, p.Fix = "not running as root", "run the agent as root"
		return p
	}
	method, err := tryErofs(root)
	if err != nil {
		p.fails(err)
		p.Fix = "use Linux 6.12 or newer with EROFS (CONFIG_EROFS_FS_BACKED_BY_FILE), or 6.8 with loop devices"
		return p
	}
	p.OK = true
	if method != "file" {
		p.Why, p.Fix = "images need loop devices: this kernel can't mount them as files", "use Linux 6.12 or newer"
	}
	return p
}

func tryErofs(root string) (method string, err error) {
	if _, serr := os.Lstat(root); os.IsNotExist(serr) {
		defer os.Remove(root) //nolint:errcheck // it was not there
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(root, "probe-")
	if err != nil {
		return "", err
	}
	defer func() {
		if rerr := os.RemoveAll(dir); err == nil {
			err = rerr
		}
	}()
	drv, err := NewErofs(filepath.Join(dir, "s"), Options{Owners: true})
	if err != nil {
		return "", err
	}
	d := drv.(*Erofs)
	ctx := context.Background() //nolint:forbidigo // a probe takes milliseconds and has no caller to stop it
	defer func() {
		if _, rerr := d.Reconcile(ctx, nil, nil); err == nil && rerr != nil {
			err = rerr
		}
	}()
	return string(d.images.method), d.probeLife(ctx, filepath.Join(dir, "t"))
}

// probeLife unpacks a tree, makes its image and a view of that.
func (d *Erofs) probeLife(ctx context.Context, target string) error {
	var ids [2]snapshot.ID
	for i := range ids {
		var err error
		if ids[i], err = snapshot.NewID(rand.Reader); err != nil {
			return err
		}
	}
	file := func(name string) snapshot.Change {
		return snapshot.Change{Entry: snapshot.Entry{Path: name, Type: snapshot.TypeFile, Mode: 0o644, Size: 1}}
	}
	changes := []snapshot.Change{
		{Entry: snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755}},
		{Entry: snapshot.Entry{Path: "d", Type: snapshot.TypeDir, Mode: 0o755}},
		file("d/f"), file("d/object"),
	}
	changes[3].Entry.Size = bundleMost
	l, err := d.UnpackShown(ctx, UnpackSpec{
		ID: ids[0], Changes: changes, Later: true, // nothing of it is to stay
		Fill: func(_ context.Context, write WriteFunc) error {
			if err := write(2, 0, []byte("x")); err != nil {
				return err
			}
			return write(3, 0, []byte("x"))
		},
		Tree: func() (*snapshot.Manifest, error) { return tree.Apply(nil, changes) },
	})
	if err != nil {
		return err
	}
	v, err := d.Prepare(ctx, Spec{ID: ids[1], Base: l, Target: target})
	if err != nil {
		return err
	}
	var one [1]byte
	f, err := os.Open(filepath.Join(target, "d", "object"))
	if err != nil {
		return err
	}
	_, err = f.Read(one[:])
	f.Close() //nolint:errcheck // only read from
	if err == nil && one[0] != 'x' {
		err = fmt.Errorf("probe: read %q of an object, want %q", one[:], "x")
	}
	if err != nil {
		return err
	}
	if err := probeJob(target, true); err != nil {
		return err
	}
	return d.Discard(ctx, v)
}
