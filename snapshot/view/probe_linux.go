package view

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// haveDataDirs reports whether the kernel takes layers one by one and data-only
// ones among them (Linux 6.8). It asks without mounting anything.
func haveDataDirs() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs) //nolint:errcheck // nothing to lose
	return unix.FsconfigSetString(fs, "lowerdir+", "/") == nil &&
		unix.FsconfigSetString(fs, "datadir+", "/") == nil
}

// probeOverlay goes through a view's whole life below root: what a kernel or a
// file system can't do shows here and not in somebody's job.
func probeOverlay(root string) Probed {
	p := Probed{Name: NameOverlay}
	if os.Geteuid() != 0 {
		p.Why, p.Fix = "not running as root", "run the agent as root"
		return p
	}
	if b, err := os.ReadFile("/proc/filesystems"); err == nil && !bytes.Contains(b, []byte("\toverlay\n")) {
		// The module may be loaded by the first mount; if not, say this.
		p.Fix = "load the overlay module: modprobe overlay"
	}
	if err := tryOverlay(root); err != nil {
		p.fails(err)
		if p.Fix == "" {
			p.Fix = "let the store be on a file system with trusted xattrs that is no overlay itself (ext4, XFS, btrfs), and keep CAP_SYS_ADMIN"
		}
		return p
	}
	p.OK, p.Fix = true, ""
	if !haveDataDirs() {
		p.Why, p.Fix = "merged views copy their files: this kernel has no data-only directories", "use Linux 6.8 or newer"
	}
	return p
}

func tryOverlay(root string) (err error) {
	if _, serr := os.Lstat(root); os.IsNotExist(serr) {
		defer os.Remove(root) //nolint:errcheck // it was not there
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(root, "probe-")
	if err != nil {
		return err
	}
	drv, err := NewOverlay(filepath.Join(dir, "s"), Options{Owners: true})
	if err != nil {
		os.RemoveAll(dir) //nolint:errcheck // the first error is the one to tell
		return err
	}
	ctx := context.Background() //nolint:forbidigo // a probe takes milliseconds and has no caller to stop it
	var ids []snapshot.ID
	defer func() {
		if _, rerr := drv.Reconcile(ctx, nil, nil); err == nil && rerr != nil {
			err = rerr
		}
		for _, id := range ids {
			if rerr := drv.Discard(ctx, &View{ID: id}); err == nil { // lets go of its files
				err = rerr
			}
		}
		if rerr := os.RemoveAll(dir); err == nil {
			err = rerr
		}
	}()
	target := filepath.Join(dir, "t")
	var base *Layer
	for range 2 { // the second stands on the first
		id, err := snapshot.NewID(rand.Reader)
		if err != nil {
			return err
		}
		ids = append(ids, id)
		v, err := drv.Prepare(ctx, Spec{ID: id, Base: base, Target: target})
		if err != nil {
			return err
		}
		if err := probeJob(target, base != nil); err != nil {
			return err
		}
		if err := drv.Seal(ctx, v); err != nil {
			return err
		}
		base = &v.Layer
	}
	return nil
}

// probeJob does what jobs do and what not every overlay can.
func probeJob(dir string, second bool) error {
	if !second {
		if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "d", "f"), []byte("x"), 0o644)
	}
	// A rename of an inherited directory: EXDEV where redirects do not work. It
	// is rename(2) itself that is tried, and nothing has to last.
	if err := unix.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e")); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(dir, "e", "f"), 0o600); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(dir, "e", "f"))
	if err == nil && string(b) != "x" {
		err = fmt.Errorf("probe: read %q through an overlay, want %q", b, "x")
	}
	return err
}
