package erofs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// probeText is content of a bundle that a probe reads back.
const probeText = "roost"

// Probe tries out what works for images and bundles in dir, which must be on the
// file system where they will be, and returns the best method. The error says why
// each of them fails. Nothing becomes visible or is left.
func Probe(ctx context.Context, dir string) (Method, error) {
	tmp, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return "", fmt.Errorf("erofs: probe: %w", err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a few small files
	image, bundle := filepath.Join(tmp, "image"), filepath.Join(tmp, "bundle")
	if err := writeProbe(ctx, image, bundle); err != nil {
		return "", fmt.Errorf("erofs: probe: %w", err)
	}
	var why []error
	for _, m := range []Method{FileBacked, Loop} {
		if err := tryProbe(m, image, bundle); err == nil {
			return m, nil
		} else {
			why = append(why, fmt.Errorf("%s: %w", m, err))
		}
	}
	return "", errors.Join(why...)
}

func writeProbe(ctx context.Context, image, bundle string) error {
	if err := os.WriteFile(bundle, append([]byte(probeText), make([]byte, 4096-len(probeText))...), 0o600); err != nil {
		return err
	}
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // Write told what went wrong
	m := &snapshot.Manifest{Entries: []snapshot.Entry{
		{Type: snapshot.TypeDir, Mode: 0o755},
		{Path: "f", Type: snapshot.TypeFile, Mode: 0o644, Size: int64(len(probeText))},
	}}
	at := Content{Extents: []Extent{{Len: int64(len(probeText))}}}
	_, err = Write(ctx, f, Options{Devices: []string{"probe"}},
		Entries(m, func(*snapshot.Entry) (Content, error) { return at, nil }))
	return err
}

func tryProbe(m Method, image, bundle string) error {
	mnt, err := Detached(m, image, []string{bundle})
	if err != nil {
		return err
	}
	defer mnt.Close() //nolint:errcheck // the only reference
	fd, err := unix.Openat(int(mnt.Fd()), "f", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	f := os.NewFile(uintptr(fd), "f")
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(f)
	if err == nil && string(b) != probeText {
		err = fmt.Errorf("read %q, want %q", b, probeText)
	}
	return err
}
