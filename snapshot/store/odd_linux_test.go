package store

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
)

// A store may lie in a directory of any name: none of its characters means anything to
// whoever mounts, or looks for what an earlier process left mounted.
func TestOddStoreNames(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		for _, name := range []string{`back\slash`, `end\`, `a\054b`, "com,ma", "co:lon", "new\nline", "a b", "\xff", `%s"$`} {
			parent := t.TempDir()
			b := benchAt(t, filepath.Join(parent, name, "store"), driver)
			one := b.job(func(dir string) { write(t, dir+"/f", "one") })
			p := b.spec(one.ID)
			a, err := b.Prepare(t.Context(), p)
			require.NoError(t, err, "%q", name)
			require.Equal(t, "one", read(t, a.Target+"/f"))
			write(t, a.Target+"/g", "two")
			b.reopen() // as after a crash
			require.NoError(t, b.Discard(t.Context(), p.ID))
			requireNoMounts(t, parent)
			requireNoMounts(t, a.Target)
			two := b.job(func(dir string) { write(t, dir+"/g", "two") }, one.ID)
			b.packed(two.ID)
			b.requireTree(two.ID)
			require.NoError(t, b.Verify(t.Context(), two.ID), "%q", name)
		}
	})
}

// asNobody runs this test once more without root, in a directory that is made for it.
const asNobody = "ROOST_TEST_AS_NOBODY"

// Who is not root sets attributes of files that he may only read in the end, those that
// an access list makes so among them.
func TestAttributesWithoutRoot(t *testing.T) {
	dir := os.Getenv(asNobody)
	if dir == "" {
		testenv.Require(t, testenv.Linux, testenv.Root)
		dir := t.TempDir()
		require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) //nolint:gosec // others have to go through
		program := filepath.Join(dir, "test")
		self, err := os.ReadFile("/proc/self/exe")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(program, self, 0o755)) //nolint:gosec // it is run
		require.NoError(t, os.Chmod(dir, 0o755))               //nolint:gosec // the same
		work := filepath.Join(dir, "work")
		require.NoError(t, os.Mkdir(work, 0o700))
		require.NoError(t, os.Chown(work, 65534, 65534))
		c := exec.CommandContext(t.Context(), program, "-test.run=^"+t.Name()+"$") //nolint:gosec // ourselves
		c.Dir, c.Env = work, append(os.Environ(), asNobody+"="+work, "TMPDIR="+work)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	src := filepath.Join(dir, "src")
	list := []byte{2, 0, 0, 0}
	for _, e := range [][3]uint32{{1, 4, ^uint32(0)}, {2, 4, 4711}, {4, 4, ^uint32(0)}, {0x10, 4, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
		list = append(list, byte(e[0]), 0, byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
	}
	for i, content := range []string{"", "small", string(chaff(1, 9<<20))} {
		for _, acl := range []bool{false, true} {
			path := filepath.Join(src, strconv.Itoa(i)+strconv.FormatBool(acl))
			write(t, path, content)
			require.NoError(t, unix.Setxattr(path, "user.some", []byte("thing"), 0))
			if acl {
				require.NoError(t, unix.Setxattr(path, "system.posix_acl_access", list, 0))
			} else {
				require.NoError(t, os.Chmod(path, 0o444)) //nolint:gosec // as jobs do
			}
		}
	}
	b := benchAt(t, filepath.Join(dir, "store"), view.NameCopy)
	in, err := b.Create(t.Context(), CreateSpec{Dir: src, DomainKey: domainKey})
	require.NoError(t, err)
	_, err = b.Restore(t.Context(), RestoreSpec{Snapshot: in.ID, Dir: filepath.Join(dir, "dst")})
	require.NoError(t, err)
	require.Equal(t, scanned(t, src), scanned(t, filepath.Join(dir, "dst")))

	require.NoError(t, b.Materialise(t.Context(), in.ID, nil))
	p := b.spec(in.ID)
	p.Target = filepath.Join(dir, "view")
	_, err = b.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, scanned(t, src).Entries[1:], scanned(t, p.Target).Entries[1:])
}
