package install

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/internal/testenv"
)

// house is a directory that is installed into.
type house struct {
	t     *testing.T
	dir   string
	in    *Installer
	steps int
	die   int // at which step
}

var errDead = errors.New("dead")

func newHouse(t *testing.T) *house {
	h := &house{t: t, dir: t.TempDir(), die: -1}
	h.in = &Installer{Path: filepath.Join(h.dir, "lib", "install.json"), By: "test", Now: time.Now, Step: func(string) error {
		if h.steps++; h.steps-1 == h.die {
			return errDead
		}
		return nil
	}}
	h.write("etc/config.toml", "original\n")
	require.NoError(t, os.Chmod(h.path("etc/config.toml"), 0o640))
	return h
}

func (h *house) path(name string) string { return filepath.Join(h.dir, name) }

func (h *house) write(name, text string) {
	h.t.Helper()
	require.NoError(h.t, os.MkdirAll(filepath.Dir(h.path(name)), 0o755))
	require.NoError(h.t, os.WriteFile(h.path(name), []byte(text), 0o600))
}

// tree is all files with their texts and modes.
func (h *house) tree() string {
	h.t.Helper()
	var out strings.Builder
	require.NoError(h.t, filepath.Walk(h.dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil || fi.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(&out, "%s %v %q\n", strings.TrimPrefix(path, h.dir), fi.Mode(), b)
		return err
	}))
	return out.String()
}

func (h *house) files(n int) []File {
	files := []File{{Path: h.path("etc/config.toml"), Text: []byte("new\n"), Mode: 0o600}}
	for i := range n {
		files = append(files, File{Path: h.path(fmt.Sprintf("etc/roost/slot%d.toml", i)), Text: []byte(fmt.Sprint("slot ", i)), Mode: 0o600})
	}
	return files
}

// install is what a command does.
func (h *house) install(files []File) error {
	j, err := h.in.Read()
	if err != nil {
		return err
	}
	if j != nil && j.Phase != Done {
		if _, err := h.in.Undo(j, Refuse, nil); err != nil {
			return err
		}
		j = nil
	}
	if j != nil {
		if err := j.Changed(); err != nil {
			return err
		}
	}
	next := &Journal{What: "test", Litter: []string{".id"}}
	if err := h.in.Apply(j, next, files); err != nil {
		return err
	}
	return h.in.Finish(next)
}

func (h *house) uninstall(way string) ([]Undone, error) {
	j, err := h.in.Read()
	require.NoError(h.t, err)
	if j == nil {
		return nil, nil
	}
	return h.in.Undo(j, way, nil)
}

func TestInstallAndUninstallIsIdentity(t *testing.T) {
	h := newHouse(t)
	before := h.tree()
	require.NoError(t, h.install(h.files(2)))
	after := h.tree()
	require.Contains(t, after, `/etc/config.toml -rw-r----- "new\n"`)
	require.Contains(t, after, `/etc/config.toml.before-roost -rw-r----- "original\n"`)
	require.Contains(t, after, `/etc/roost/slot1.toml -rw------- "slot 1"`)
	h.write("etc/roost/.id", "litter of somebody's")
	_, err := h.uninstall(Refuse)
	require.NoError(t, err)
	require.Equal(t, before, h.tree())
	require.NoDirExists(t, h.path("etc/roost"))
}

func TestInstallAgain(t *testing.T) {
	h := newHouse(t)
	before := h.tree()
	require.NoError(t, h.install(h.files(3)))
	j, err := h.in.Read()
	require.NoError(t, err)
	text, ok, err := j.Original(h.path("etc/config.toml"))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "original\n", string(text))
	_, ok, err = j.Original(h.path("etc/roost/slot0.toml"))
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, h.install(h.files(1)), "fewer slots")
	require.NoFileExists(t, h.path("etc/roost/slot2.toml"))
	require.NoError(t, h.install(h.files(2)))
	_, err = h.uninstall(Refuse)
	require.NoError(t, err)
	require.Equal(t, before, h.tree())
}

func TestThreeWaysOutOfAChange(t *testing.T) {
	for _, way := range []string{Refuse, Force, Keep} {
		h := newHouse(t)
		require.NoError(t, h.install(h.files(1)))
		h.write("etc/config.toml", "edited\n")
		installed := h.tree()
		require.Error(t, h.install(h.files(1)), "an installation does not overwrite it either")
		list, err := h.uninstall(way)
		switch way {
		case Refuse:
			var ce *ChangedError
			require.ErrorAs(t, err, &ce)
			require.Equal(t, installed, h.tree(), "nothing was touched")
			continue
		case Force:
			require.Contains(t, h.tree(), `/etc/config.toml -rw-r----- "original\n"`)
			require.Contains(t, h.tree(), `/etc/config.toml.changed-after-roost`)
		case Keep:
			require.Contains(t, h.tree(), `"edited\n"`)
			require.Contains(t, h.tree(), `/etc/config.toml.before-roost`)
		}
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.NoFileExists(t, h.in.Path)
		require.NoFileExists(t, h.path("etc/roost/slot0.toml"))
	}
}

// A crash at any step of an installation is undone, or finished, by the next one; one at
// any step of an uninstallation is finished by the next one.
func TestCrashAtEveryStep(t *testing.T) {
	for die := 0; ; die++ {
		h := newHouse(t)
		before := h.tree()
		require.NoError(t, h.install(h.files(3)))
		want := h.tree()
		_, err := h.uninstall(Refuse)
		require.NoError(t, err)
		require.NoError(t, h.install(h.files(1)))

		h.steps, h.die = 0, die
		err = h.install(h.files(3))
		died := h.steps > die
		h.die = -1
		if died {
			require.ErrorIs(t, err, errDead)
			require.NoError(t, h.install(h.files(3)))
		}
		require.Equal(t, clean(want), clean(h.tree()))

		h.steps, h.die = 0, die
		_, err = h.uninstall(Refuse)
		diedAgain := h.steps > die
		h.die = -1
		if diedAgain {
			require.ErrorIs(t, err, errDead)
			_, err = h.uninstall(Refuse)
			require.NoError(t, err)
		}
		require.Equal(t, before, h.tree(), "died at step %d", die)
		if !died && !diedAgain {
			require.Greater(t, die, 6)
			return
		}
	}
}

// clean leaves out the journal, which has a time.
func clean(tree string) string {
	var out []string
	for _, l := range strings.Split(tree, "\n") {
		if !strings.Contains(l, "install.json") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

// A file for people to edit is not in anybody's way.
func TestEditableFile(t *testing.T) {
	h := newHouse(t)
	before := h.tree()
	f := []File{{Path: h.path("etc/roost/config.toml"), Text: []byte("ours\n"), Mode: 0o644, Editable: true}}
	require.NoError(t, h.install(f))
	h.write("etc/roost/config.toml", "theirs\n")
	require.NoError(t, h.install(f))
	h.write("etc/roost/config.toml", "theirs again\n")
	list, err := h.uninstall(Refuse)
	require.NoError(t, err)
	require.Len(t, list, 1)
	b, err := os.ReadFile(list[0].Kept)
	require.NoError(t, err)
	require.Equal(t, "theirs again\n", string(b))
	require.NoError(t, os.RemoveAll(h.path("etc/roost")))
	require.Equal(t, before, h.tree())
}

func TestUnchangedFileHasNoBackup(t *testing.T) {
	h := newHouse(t)
	h.write("etc/roost/slot0.toml", "slot 0")
	before := h.tree()
	require.NoError(t, h.install(h.files(1)))
	require.NoFileExists(t, h.path("etc/roost/slot0.toml.before-roost"))
	_, err := h.uninstall(Refuse)
	require.NoError(t, err)
	require.Equal(t, before, h.tree())
}

func TestDiff(t *testing.T) {
	require.Empty(t, Diff("a", "b", []byte("x\n"), []byte("x\n")))
	require.Equal(t, "--- a\n+++ b\n@@ -1,2 +1,2 @@\n x\n-y\n\\ No newline at end of file\n+z\n",
		Diff("a", "b", []byte("x\ny"), []byte("x\nz\n")))
	require.Equal(t, "--- a\n+++ b\n@@ -0,0 +1,1 @@\n+x\n", Diff("a", "b", nil, []byte("x\n")))
}

// What git makes of a diff is the other text.
func TestGitTakesDiffs(t *testing.T) {
	testenv.Require(t, testenv.Git)
	dir := t.TempDir()
	rapid.Check(t, func(r *rapid.T) {
		lines := rapid.SliceOfN(rapid.SampledFrom([]string{"a\n", "b\n", "c\n", "d\n", "e\n", "f\n", "g\n"}), 0, 40)
		a, b := strings.Join(lines.Draw(r, "a"), ""), strings.Join(lines.Draw(r, "b"), "")
		d := Diff("f", "f", []byte(a), []byte(b))
		if a == b {
			require.Empty(r, d)
			return
		}
		path := filepath.Join(dir, "f")
		require.NoError(r, os.WriteFile(path, []byte(a), 0o600))
		cmd := exec.Command("git", "apply", "-p0", "--unidiff-zero", "--whitespace=nowarn", "-")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(d)
		out, err := cmd.CombinedOutput()
		require.NoError(r, err, "%s\n%s", out, d)
		got, err := os.ReadFile(path)
		if b == "" && errors.Is(err, os.ErrNotExist) {
			return
		}
		require.NoError(r, err)
		require.Equal(r, b, string(got), d)
	})
}
