package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
)

// chosen lists the drivers that findings say an agent takes.
func chosen(list []finding) []string {
	var out []string
	for _, f := range list {
		if f.Driver != nil && f.Driver.Chosen {
			out = append(out, f.Driver.Name)
		}
	}
	return out
}

func states(list []finding, state string) (n int) {
	for _, f := range list {
		if f.State == state {
			n++
		}
	}
	return n
}

// TestDoctorTellsTheLadder: every rung is there, one is chosen, and it is the one
// that view.Open takes.
func TestDoctorTellsTheLadder(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	ext4, xfs := testenv.Disk(t, testenv.Ext4, 1<<30), testenv.Disk(t, testenv.XFS, 1<<30)
	for _, dir := range []string{ext4, xfs} {
		list := checkDrivers(dir, "auto")
		require.Len(t, list, len(view.Names()))
		require.Zero(t, states(list, "bad"))
		d, err := view.Open("auto", dir, view.Options{Owners: true})
		require.NoError(t, err)
		require.Equal(t, []string{d.Name()}, chosen(list))
		for _, f := range list {
			require.True(t, f.Driver.Works || f.Driver.Why != "", "%+v", f)
		}
	}
	list := checkDrivers(ext4, view.NameReflink)
	require.Empty(t, chosen(list), "asked for, and not to be had")
	require.Equal(t, 2, states(list, "bad"))
	require.Equal(t, []string{view.NameReflink}, chosen(checkDrivers(xfs, view.NameReflink)))
	require.Equal(t, []string{"containers-storage"}, chosen(checkDrivers(ext4, "containers-storage")))

	made := filepath.Join(ext4, "store")
	d, err := view.Open(view.NameCopy, made, view.Options{Owners: true})
	require.NoError(t, err)
	_, err = d.Prepare(t.Context(), view.Spec{ID: "00000000000000000000000001", Target: filepath.Join(made, "slot")})
	require.NoError(t, err)
	require.Equal(t, []string{view.NameCopy}, chosen(checkDrivers(made, "auto")), "it has layers of that driver")
	require.NotZero(t, states(checkDrivers(made, view.NameOverlay), "bad"))

	f := checkFileSystem(t.Context(), ext4)
	require.NotNil(t, f.FirstWrite)
	require.False(t, f.FirstWrite.Clones)
	require.Equal(t, "warn", f.State)
	require.Contains(t, f.Fix, "xfs-loop")
	slow := f.FirstWrite.Seconds
	f = checkFileSystem(t.Context(), xfs)
	require.True(t, f.FirstWrite.Clones)
	require.Positive(t, slow)
	require.Empty(t, f.Fix)

	b, err := json.Marshal(append(list, f))
	require.NoError(t, err)
	require.Contains(t, string(b), `"driver":{"name":"reflink","works":false`)
	require.Contains(t, string(b), `"first_write":{"file_system":"XFS","clones":true`)
	for _, dir := range []string{ext4, xfs} {
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range left {
			if e.Name() != "probed" { // view.Open's note of what works
				require.NotContains(t, e.Name(), "probe", "left behind")
			}
			require.NotContains(t, e.Name(), "doctor", "left behind")
		}
	}
}

// TestDoctorTellsOfBackings: what is missing is named.
func TestDoctorTellsOfBackings(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Loop, "mkfs.xfs")
	want := configs.Default().Store
	dir := t.TempDir()
	require.Contains(t, checkBacking(dir, want)[0].Text, "is possible")
	want.Backing = configs.XFSLoop
	require.Contains(t, checkBacking(dir, want)[0].Text, "will be made")
	t.Setenv("PATH", t.TempDir())
	f := checkBacking(dir, want)[0]
	require.Equal(t, "bad", f.State)
	require.Contains(t, f.Fix, "xfsprogs")
}
