package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// What a snapshot was made on may go when it stands alone, and the next ones stand on it
// as before.
func TestDetach(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b, dir, one := againBench(t)
	same := b.create(dir, one.ID)
	write(t, filepath.Join(dir, "new"), string(chaff(1, 3<<20)))
	two := b.create(dir, same.ID)
	write(t, filepath.Join(dir, "newer"), string(chaff(2, 1<<20)))
	three := b.create(dir, two.ID)
	before := filepath.Join(t.TempDir(), "two")
	_, err := b.Restore(t.Context(), RestoreSpec{Snapshot: two.ID, Dir: before})
	require.NoError(t, err)

	require.ErrorIs(t, b.Drop(t.Context(), one.ID), snapshot.ErrBusy)
	require.Equal(t, []snapshot.ID{same.ID}, b.OnTop(one.ID))
	require.NoError(t, b.Detach(t.Context(), two.ID))
	require.NoError(t, b.Detach(t.Context(), two.ID), "it is already")
	require.Empty(t, b.OnTop(same.ID))
	require.NoError(t, b.Drop(t.Context(), same.ID))
	require.NoError(t, b.Drop(t.Context(), one.ID))
	b.Tidy()
	for range 2 {
		require.NoError(t, b.VerifyAll(t.Context(), []snapshot.ID{three.ID}, nil, func(_ snapshot.ID, err error) { require.NoError(t, err) }))
		b.back(three.ID, dir)
		b.back(two.ID, before)
		b.reopen()
	}
	four := b.create(dir, three.ID)
	require.True(t, b.fromStamps(three.ID, four.ID))
	require.NoError(t, b.Detach(t.Context(), four.ID))
	require.NoError(t, b.Drop(t.Context(), three.ID))
	require.NoError(t, b.Drop(t.Context(), two.ID))
	b.Tidy()
	b.back(four.ID, dir)
	require.NoError(t, b.Drop(t.Context(), four.ID))
	b.Tidy()
	for _, d := range []string{"packs", "indexes", "manifests"} {
		left, err := os.ReadDir(filepath.Join(b.dir, d))
		require.NoError(t, err)
		require.Empty(t, left, d)
	}
}

// A base that was made with other patterns, or none, makes no difference.
func TestCreateExcludes(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b, dir, last := againBench(t)
	write(t, filepath.Join(dir, "keep/f"), "f")
	write(t, filepath.Join(dir, "skip/f"), "f")
	all := b.create(dir, last.ID)
	for _, c := range []struct {
		patterns []string
		fewer    int64
	}{{[]string{"skip"}, 2}, {[]string{"skip"}, 2}, {[]string{"keep", "skip"}, 4}, {nil, 0}, {nil, 0}, {[]string{"none"}, 0}, {nil, 0}} {
		spec := CreateSpec{Dir: dir, Base: last.ID, DomainKey: domainKey}
		if c.patterns != nil {
			var err error
			spec.Exclude, err = tree.NewExclude(c.patterns)
			require.NoError(t, err)
		}
		next, err := b.Create(t.Context(), spec)
		require.NoError(t, err)
		require.Equal(t, all.Entries-c.fewer, next.Entries, "%q", c.patterns)
		for _, d := range []string{"keep", "skip"} {
			err := b.WriteFile(t.Context(), next.ID, d+"/f", &bytes.Buffer{})
			var none *NoPathError
			require.Equal(t, slices.Contains(c.patterns, d), errors.As(err, &none), "%s of %q: %v", d, c.patterns, err)
		}
		last = next
	}
}

func TestRestoreOfSome(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root)
	b, dir, _ := againBench(t)
	write(t, filepath.Join(dir, "z1/deep/er/file"), "file")
	write(t, filepath.Join(dir, "z1/deep/other"), "other")
	require.NoError(t, os.Link(filepath.Join(dir, "z1/deep/other"), filepath.Join(dir, "z1/deep/er/x")))
	require.NoError(t, os.Link(filepath.Join(dir, "z1/deep/other"), filepath.Join(dir, "z1/deep/er/y")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "z1/deep"), 0o710))
	one := b.create(dir, "")
	to := filepath.Join(t.TempDir(), "to")
	in, err := b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: to, Only: []string{"z1/deep/er"}})
	require.NoError(t, err)
	require.Equal(t, int64(7), in.Entries)
	require.Equal(t, int64(len("file")+len("other")), in.TreeBytes)
	b.back(b.create(to, "").ID, to)
	require.NoFileExists(t, filepath.Join(to, "z1/deep/other"))
	x, err := os.Stat(filepath.Join(to, "z1/deep/er/x"))
	require.NoError(t, err)
	y, err := os.Stat(filepath.Join(to, "z1/deep/er/y"))
	require.NoError(t, err)
	require.True(t, os.SameFile(x, y), "names of one file that are both restored")
	require.Equal(t, "other", read(t, filepath.Join(to, "z1/deep/er/y")))
	fi, err := os.Stat(filepath.Join(to, "z1/deep"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o710), fi.Mode().Perm())

	var none *NoPathError
	_, err = b.Restore(t.Context(), RestoreSpec{Snapshot: one.ID, Dir: to + "2", Only: []string{"z1", "z1/dee"}})
	require.ErrorAs(t, err, &none)
	require.Equal(t, "z1/dee", none.Path)
	left, err := filepath.Glob(to + "2*")
	require.NoError(t, err)
	require.Empty(t, left)

	var out bytes.Buffer
	require.NoError(t, b.WriteFile(t.Context(), one.ID, "z1/deep/er/y", &out))
	require.Equal(t, "other", out.String())
	require.ErrorIs(t, b.WriteFile(t.Context(), one.ID, "z1/deep", &out), ErrNoFile)
	require.ErrorAs(t, b.WriteFile(t.Context(), one.ID, "z1/dee", &out), &none)
	require.NoError(t, b.Materialise(t.Context(), one.ID, nil))
	out.Reset()
	require.NoError(t, b.WriteFile(t.Context(), one.ID, "z1/deep/er/file", &out))
	require.Equal(t, "file", out.String())
	tmp, err := os.ReadDir(filepath.Join(b.dir, "tmp"))
	require.NoError(t, err)
	require.Empty(t, tmp)
}
