package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin/wire"
)

// install copies this binary to a place of its own and returns its path and checksum.
func install(t *testing.T, dir string) (string, string) {
	t.Helper()
	in, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer in.Close()
	path := filepath.Join(dir, "plugin")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	require.NoError(t, err)
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, h), in)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	return path, hex.EncodeToString(h.Sum(nil))
}

func pinned(path, sum string) func(*Options) {
	return func(o *Options) { o.Program.Path, o.Program.SHA256 = path, sum }
}

func TestPinned(t *testing.T) {
	path, sum := install(t, t.TempDir())
	r := run(t, "", pinned(path, strings.ToUpper(sum)))
	require.Equal(t, path, r.l.next(t).Args[0])
	r.stop(t)

	wrong := strings.Repeat("0", 64)
	require.ErrorIs(t, run(t, "", pinned(path, wrong)).wait(t), ErrPin)
}

// TestSwap replaces the program between the check and its start: what starts is what was checked.
// Then it writes to it: that is refused.
func TestSwap(t *testing.T) {
	dir := t.TempDir()
	path, sum := install(t, dir)
	prog := Program{Path: path, SHA256: sum}
	o, err := prog.open()
	require.NoError(t, err)
	defer o.close()
	evil := filepath.Join(dir, "evil")
	require.NoError(t, os.WriteFile(evil, []byte("#!/bin/sh\ntouch "+dir+"/ran\n"), 0o755))
	require.NoError(t, os.Rename(evil, path))
	p, err := wire.Start(t.Context(), wire.Command{Path: o.path, Args: []string{"p", "be-plugin", ""}})
	require.NoError(t, err)
	p.Kill()
	require.NoFileExists(t, filepath.Join(dir, "ran"))
	require.NoError(t, o.unchanged())
	_, err = prog.open()
	require.ErrorIs(t, err, ErrPin)

	require.NoError(t, os.Remove(path))
	path, sum = install(t, dir)
	o, err = Program{Path: path, SHA256: sum}.open()
	require.NoError(t, err)
	defer o.close()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("x")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.ErrorIs(t, o.unchanged(), ErrPin)
}

func TestOthersMayWrite(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	path, sum := install(t, dir)
	open := func(p string) error {
		o, err := Program{Path: p, SHA256: sum}.open()
		if err == nil {
			o.close()
		}
		return err
	}
	require.NoError(t, open(path))
	for _, p := range []string{path, dir, filepath.Dir(dir)} {
		fi, err := os.Stat(p)
		require.NoError(t, err)
		for _, bit := range []os.FileMode{0o020, 0o002} {
			require.NoError(t, os.Chmod(p, fi.Mode()|bit))
			require.ErrorIs(t, open(path), ErrWritable, "%s %o", p, bit)
		}
		require.NoError(t, os.Chmod(p, fi.Mode()))
	}
	// A way through a place of others is no better for its end.
	shared := filepath.Join(top, "shared")
	require.NoError(t, os.Mkdir(shared, 0o755))
	require.NoError(t, os.Symlink("../a/b/plugin", filepath.Join(shared, "link")))
	require.NoError(t, os.Symlink(filepath.Join(shared, "link"), filepath.Join(top, "link2")))
	require.NoError(t, open(filepath.Join(top, "link2")))
	require.NoError(t, os.Chmod(shared, 0o777))
	require.ErrorIs(t, open(filepath.Join(top, "link2")), ErrWritable)
	require.NoError(t, os.Chmod(shared, 0o777|os.ModeSticky))
	require.NoError(t, open(filepath.Join(top, "link2")))

	require.Error(t, open(dir))
	require.NoError(t, os.Symlink("loop", filepath.Join(top, "loop")))
	require.ErrorContains(t, open(filepath.Join(top, "loop")), "too many links")
	require.Error(t, open(path+"/x"))
}

func TestOwners(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path, sum := install(t, t.TempDir())
	require.NoError(t, os.Chown(path, 65534, 0))
	_, err := Program{Path: path, SHA256: sum}.open()
	require.ErrorIs(t, err, ErrWritable)
}

func TestValid(t *testing.T) {
	for _, p := range []Program{{Path: "rel"}, {Path: "/x", SHA256: "12"}, {SHA256: strings.Repeat("0", 64)}} {
		require.Error(t, p.valid(), "%+v", p)
	}
}
