package exec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/plugintest"
)

// runIn runs a script in a fresh place and returns its own output.
func runIn(t *testing.T, f *fixture, script ...string) (plugin.Result, string, plugintest.Place) {
	t.Helper()
	p := f.place(t)
	res, log := runAt(t, f, p, script...)
	return res, log, p
}

func runAt(t *testing.T, f *fixture, p plugintest.Place, script ...string) (plugin.Result, string) {
	t.Helper()
	var log plugintest.Log
	res, err := f.Run(t.Context(), plugin.Job{
		Attempt: plugintest.NewID(t), Name: "job", View: p.View, Path: p.Path, Script: script,
	}, &log)
	require.NoError(t, err)
	var keep []string
	for _, l := range strings.Split(log.String(), "\n") {
		if !strings.HasPrefix(l, "\x1b[") {
			keep = append(keep, l)
		}
	}
	return res, strings.Join(keep, "\n")
}

func TestRootIdentity(t *testing.T) {
	f := newFixture(t, Options{RootMode: true, RunAs: "64321:65533"})
	res, log, p := runIn(t, f, "id -u; id -g; id -G", "grep NoNewPrivs /proc/self/status | tr -d '\\t'",
		"grep CapEff /proc/self/status | tr -d '\\t'", "touch mine", "umask", "stat -c %U:%a $HOME | cut -d: -f2")
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	require.Equal(t, "64321\n65533\n65533\nNoNewPrivs:1\nCapEff:0000000000000000\n0022\n700\n", log)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(p.View, "mine"), &st))
	require.Equal(t, []uint32{64321, 65533}, []uint32{st.Uid, st.Gid})
}

func TestSudoIdentity(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Linux)
	for _, tc := range []struct {
		uid, gid, runAs string
		want            uint32
	}{
		{"", "", "", 65534},
		{"0", "0", "", 65534}, // root behind sudo is no reason to run jobs as root
		{"-1", "5", "", 65534},
		{"4294967295", "5", "", 65534},
		{"1234", "5", "", 1234},
		{"1234", "5", "77:78", 77},
		{"1234", "5", "root", 0},
	} {
		t.Setenv("SUDO_UID", tc.uid)
		t.Setenv("SUDO_GID", tc.gid)
		id, err := identify(Options{RootMode: true, RunAs: tc.runAs})
		require.NoError(t, err)
		require.Equal(t, tc.want, id.UID, "%+v", tc)
	}
	for _, bad := range []string{"no such user", "1:x", "x:1", "4294967295:1", "-1:0"} {
		_, err := identify(Options{RootMode: true, RunAs: bad})
		require.Error(t, err, bad)
	}
}

// TestNamespace holds S4 and S24: a job, even one of root, sees neither the store
// nor other jobs' views, and nothing that it mounts is seen outside.
func TestNamespace(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Overlay)
	f := newFixture(t, Options{RootMode: true, RunAs: "root"})
	other := filepath.Join(f.dir, "elsewhere")
	require.NoError(t, os.MkdirAll(filepath.Join(f.dir, "l"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(f.dir, "o"), 0o755))
	require.NoError(t, os.MkdirAll(other, 0o755))
	require.NoError(t, unix.Mount(viewSource, other, "overlay", unix.MS_RDONLY, "lowerdir="+f.dir+"/l:"+f.dir+"/o"))
	defer unix.Unmount(other, 0) //nolint:errcheck // a test's
	before, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)

	res, log, p := runIn(t, f,
		"ls -A "+filepath.Join(f.dir, "store"),
		fmt.Sprintf("grep -c ' %s ' /proc/self/mountinfo || true", other),
		"mkdir m && mount -t tmpfs none m && touch m/inside && mount --make-rshared / && ls m",
		"cp /usr/bin/id su && chmod 4755 su", "findmnt -no OPTIONS -T . | tr , '\\n' | grep -xE 'nosuid|nodev'",
		"mount -t tmpfs none $HOME")
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	require.Equal(t, "0\ninside\nnosuid\nnodev\n", log)
	require.NoFileExists(t, filepath.Join(p.View, "m", "inside"))
	after, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
}

func TestStoreIsOutOfReach(t *testing.T) {
	f := newFixture(t, Options{RootMode: true, RunAs: "nobody"})
	f.o.Hide = nil // by its mode alone
	res, log, _ := runIn(t, f, "! ls "+filepath.Join(f.dir, "store")+" 2>/dev/null", "! cat "+filepath.Join(f.dir, "store/exec/x")+" 2>/dev/null")
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
}

// TestSamePath runs jobs side by side that see different trees at one path.
func TestSamePath(t *testing.T) {
	f := newFixture(t, Options{RootMode: true})
	a, b := f.place(t), f.place(t)
	require.Equal(t, a.Path, b.Path)
	require.NotEqual(t, a.View, b.View)
	_, la := runAt(t, f, a, "pwd; touch a; ls")
	_, lb := runAt(t, f, b, "pwd; touch b; ls")
	require.Equal(t, a.Path+"\na\n", la)
	require.Equal(t, b.Path+"\nb\n", lb)
}

func TestRefusals(t *testing.T) {
	f := newFixture(t, Options{RootMode: true})
	p := f.place(t)
	good := plugin.Job{Attempt: plugintest.NewID(t), View: p.View, Path: p.Path, Script: []string{"true"}}
	for name, edit := range map[string]func(*plugin.Job){
		"id":          func(j *plugin.Job) { j.Attempt = "../x" },
		"view":        func(j *plugin.Job) { j.View = "relative" },
		"no view":     func(j *plugin.Job) { j.View = filepath.Join(f.dir, "none") },
		"hidden path": func(j *plugin.Job) { j.Path = filepath.Join(f.dir, "store", "x") },
		"link": func(j *plugin.Job) {
			j.View = filepath.Join(f.dir, "link")
			require.NoError(t, os.Symlink("/etc", j.View))
		},
	} {
		j := good
		edit(&j)
		_, err := f.Run(t.Context(), j, &plugintest.Log{})
		require.Error(t, err, name)
	}
	left, err := os.ReadDir(f.o.StateDir)
	require.NoError(t, err)
	require.Empty(t, left)
}
