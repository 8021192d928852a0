package erofs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// overlaid stacks a fresh upper on lower and the data directories, as a view does,
// and returns where and the upper. It is unmounted when end is called, or at the
// test's end.
func overlaid(t testing.TB, target, lower string, data ...string) (upper string, end func()) {
	dir := t.TempDir()
	upper = filepath.Join(dir, "upper")
	require.NoError(t, os.Mkdir(upper, 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "work"), 0o755))
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(fs)
	set := func(k, v string) { require.NoError(t, unix.FsconfigSetString(fs, k, v), "%s=%s", k, v) }
	for _, p := range [][2]string{{"redirect_dir", "on"}, {"metacopy", "on"}, {"index", "off"}, {"xino", "off"}, {"lowerdir+", lower}} {
		set(p[0], p[1])
	}
	for _, d := range data {
		set("datadir+", d)
	}
	set("upperdir", upper)
	set("workdir", filepath.Join(dir, "work"))
	require.NoError(t, unix.FsconfigSetFlag(fs, "volatile"))
	require.NoError(t, unix.FsconfigCreate(fs))
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(mnt)
	require.NoError(t, unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
	done := false
	end = func() {
		if !done {
			done = true
			require.NoError(t, unix.Unmount(target, unix.UMOUNT_NOFOLLOW))
		}
	}
	t.Cleanup(end)
	return upper, end
}

// The whole mix in one view: small files in bundles, large ones in an object
// directory that the overlay reaches by the stubs' redirects.
func TestBelowOverlay(t *testing.T) {
	needMount(t)
	for _, m := range []Method{FileBacked, Loop} {
		t.Run(string(m), func(t *testing.T) {
			w := newWorld(t, 2)
			r := testRand(7)
			w.everything()
			for i := range 20 {
				path := fmt.Sprintf("object-%02d", i)
				w.file(path, bytesOf(r, 100_000+i)).Mode = 0o640
				w.objects[path] = true
			}
			w.sparse("object-sparse", 3<<20, run{1 << 20, bytesOf(r, 5000)})
			w.objects["object-sparse"] = true
			w.link("object-linked", "object-00")
			e := &w.entries[len(w.entries)-1]
			e.Xattrs = []snapshot.Xattr{{Name: "user.x", Value: []byte("y")}}
			w.entries[w.find("object-00")].Xattrs = e.Xattrs

			image, devices, _ := w.image("image", w.options())
			lower := mounted(t, m, image, devices)
			w.compare(lower, false) // stubs read as holes, sizes and all
			target := t.TempDir()
			overlaid(t, target, lower, w.objectDir())
			w.compare(target, true)
			jobs(t, w, target)
		})
	}
}

func (w *world) find(path string) int {
	for i := range w.entries {
		if w.entries[i].Path == path {
			return i
		}
	}
	w.t.Fatalf("no %q", path)
	return -1
}

// jobs does to the view what a job does.
func jobs(t *testing.T, w *world, target string) {
	at := func(p string) string { return filepath.Join(target, p) }
	for _, name := range []string{"size-4097", "object-03"} {
		want := w.data[name][0].data
		f, err := os.OpenFile(at(name), os.O_WRONLY|os.O_APPEND, 0)
		require.NoError(t, err)
		_, err = f.WriteString("more")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		got, err := os.ReadFile(at(name))
		require.NoError(t, err)
		require.Equal(t, string(want)+"more", string(got), name)
	}
	require.NoError(t, os.Chmod(at("object-04"), 0o755))
	require.NoError(t, os.Chown(at("object-05"), 7, 8))
	require.NoError(t, os.Rename(at("object-06"), at("names/moved")))
	require.NoError(t, os.Rename(at("names"), at("renamed")))
	for path, from := range map[string]string{"object-04": "object-04", "object-05": "object-05", "renamed/moved": "object-06"} {
		got, err := os.ReadFile(at(path))
		require.NoError(t, err)
		require.Equal(t, string(w.data[from][0].data), string(got), path)
	}
	require.NoError(t, os.RemoveAll(at("renamed")))
	_, err := os.Stat(at("renamed"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// An object that is not there when the view is mounted is an error when it is
// read, and is found once it comes.
func TestObjectComesLater(t *testing.T) {
	needMount(t)
	w := newWorld(t, 0)
	w.file("o", bytesOf(testRand(8), 2<<20))
	w.objects["o"] = true
	image, _, _ := w.image("image", w.options())
	object := w.objectDir() + w.places["o"].Object
	require.NoError(t, os.Link(object, w.dir+"/aside"))
	require.NoError(t, os.Remove(object))
	target := t.TempDir()
	overlaid(t, target, mounted(t, FileBacked, image, nil), w.objectDir())
	_, err := os.ReadFile(target + "/o")
	require.Error(t, err)
	require.NoError(t, os.Link(w.dir+"/aside", object))
	w.compare(target, true)
}

// A detached mount serves as a lower without being seen anywhere.
func TestDetachedBelowOverlay(t *testing.T) {
	needMount(t)
	w := newWorld(t, 1)
	w.file("a", []byte("x"))
	image, devices, _ := w.image("image", w.options())
	mnt, err := Detached(FileBacked, image, devices)
	require.NoError(t, err)
	target := t.TempDir()
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(fs)
	lower := fmt.Sprintf("/proc/self/fd/%d", mnt.Fd())
	if err := unix.FsconfigSetString(fs, "lowerdir+", lower); err != nil {
		mnt.Close()
		t.Skipf("this kernel takes no detached lower: %v", err)
	}
	require.NoError(t, unix.FsconfigSetString(fs, "lowerdir+", t.TempDir())) // without an upper it wants two
	require.NoError(t, unix.FsconfigCreate(fs))
	mnt.Close()
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.MoveMount(m, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
	unix.Close(m)
	defer func() { require.NoError(t, unix.Unmount(target, 0)) }()
	got, err := os.ReadFile(target + "/a")
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
}

// git keeps inode numbers in its index: a child's image that moved them would
// make it read every file again. diff-files lists those it would have to read.
func TestGitSeesOnlyTheChange(t *testing.T) {
	needMount(t)
	testenv.Require(t, testenv.Git)
	build := func(child bool) *world {
		w := newWorld(t, 1)
		r := testRand(9)
		if child {
			w.file("a-new", []byte("new"))
			w.file("a-new2", []byte("new"))
		}
		for i := range 300 {
			if i == 0 || i%40 == 0 {
				w.folder(fmt.Sprintf("d%03d", i/40))
			}
			path, data := fmt.Sprintf("d%03d/f%03d", i/40, i), bytesOf(r, 100+i)
			switch {
			case child && i == 5:
				continue // deleted
			case child && i == 7:
				data = append(data, 'x')
			}
			w.file(path, data)
		}
		return w
	}
	base, child := build(false), build(true)
	target, gitDir := t.TempDir(), t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"--git-dir", gitDir, "--work-tree", target, "-c", "safe.directory=*", "-c", "user.name=n", "-c", "user.email=e"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "LC_ALL=C")
		cmd.Dir = target
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "git %s: %s", args, out)
		return string(out)
	}
	image, devices, _ := base.image("image", base.options())
	_, end := overlaid(t, target, mounted(t, FileBacked, image, devices))
	git("init", "-q")
	git("add", "-A")
	git("commit", "-q", "-m", "all")
	require.Empty(t, git("diff-files", "--name-only"))
	end()

	view := func(o Options) []string {
		image, devices, info := child.image(fmt.Sprintf("child-%t", o.Base != nil), o)
		t.Logf("%d of %d inodes kept", info.Kept, info.Inodes)
		_, end := overlaid(t, target, mounted(t, FileBacked, image, devices))
		defer end()
		return strings.Fields(git("diff-files", "--name-only"))
	}
	o := child.options()
	require.Greater(t, len(view(o)), 250, "without a base numbers move; if not, this test shows nothing")
	f, err := os.Open(image)
	require.NoError(t, err)
	defer f.Close()
	o.Base = f
	require.ElementsMatch(t, []string{"d000/f005", "d000/f007"}, view(o))
}
