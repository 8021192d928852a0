package exec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestNamespace: a job, even one of root, sees neither the store
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
	before := ourMounts(t, f)

	res, log, p := runIn(t, f,
		"ls -A "+filepath.Join(f.dir, "store"),
		fmt.Sprintf("grep -c ' %s ' /proc/self/mountinfo || true", other),
		"mkdir m && mount -t tmpfs none m && touch m/inside && mount --make-rshared / && ls m",
		"cp /usr/bin/id su && chmod 4755 su", "findmnt -no OPTIONS -T . | tr , '\\n' | grep -xE 'nosuid|nodev'",
		"mount -t tmpfs none $HOME")
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	require.Equal(t, "0\ninside\nnosuid\nnodev\n", log)
	require.NoFileExists(t, filepath.Join(p.View, "m", "inside"))
	require.Equal(t, before, ourMounts(t, f))
}

// ourMounts lists what is mounted below the fixture's directory, and over what each
// job gets of its own. Others mount things on this machine, too.
func ourMounts(t *testing.T, f *fixture) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	var out []string
	for _, l := range strings.Split(string(b), "\n") {
		if strings.Contains(l, f.dir) || strings.Contains(l, " /proc ") || strings.Contains(l, " /dev/shm ") {
			out = append(out, l)
		}
	}
	return out
}

func TestStoreIsOutOfReach(t *testing.T) {
	f := newFixture(t, Options{RootMode: true, RunAs: "nobody"})
	f.o.Hide = nil // by its mode alone
	res, log, _ := runIn(t, f, "! ls "+filepath.Join(f.dir, "store")+" 2>/dev/null", "! cat "+filepath.Join(f.dir, "store/exec/x")+" 2>/dev/null")
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
}

// TestJobsApart: one user runs all jobs of a host, and yet a job finds no way to
// another's files, secrets or processes.
func TestJobsApart(t *testing.T) {
	f := newFixture(t, Options{RootMode: true, RunAs: "nobody"})
	victim := f.place(t)
	done := make(chan struct{})
	var res plugin.Result
	var log string
	go func() {
		defer close(done)
		res, log = runAt(t, f, victim, "echo mine > file; echo mine > $HOME/file",
			"echo mine > /dev/shm/roost-test-victim", "touch ready; until [ -e go ]; do sleep 0.02; done", "cat file")
	}()
	require.Eventually(t, func() bool {
		_, err := os.Lstat(filepath.Join(victim.View, "ready"))
		return err == nil
	}, time.Minute, 5*time.Millisecond)
	got, seen, _ := runIn(t, f,
		`for p in /proc/[0-9]*; do
			if ( : < $p/root/`+victim.Path+`/ready ) 2>/dev/null; then echo $p; echo stolen > $p/root/`+victim.Path+`/file; cat $p/root$HOME/file; fi
		done`,
		"ls -A /dev/shm", "kill -9 -1 2>/dev/null || true")
	require.NoError(t, os.WriteFile(filepath.Join(victim.View, "go"), nil, 0o644))
	<-done
	require.Equal(t, plugin.StatusSuccess, got.Status, seen)
	require.Empty(t, seen)
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	require.Equal(t, "mine\n", log)
	require.NoFileExists(t, "/dev/shm/roost-test-victim")
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

// TestCommitFileIsNotTrusted: root reads it where the job's user writes.
func TestCommitFileIsNotTrusted(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, commitFile)
	good := strings.Repeat("a1", 20)
	private := filepath.Join(dir, "private")
	require.NoError(t, os.WriteFile(private, []byte(good), 0o600))
	for what, put := range map[string]func() error{
		"link":    func() error { return os.Symlink(private, name) },
		"pipe":    func() error { return unix.Mkfifo(name, 0o666) },
		"dir":     func() error { return os.Mkdir(name, 0o755) },
		"secret":  func() error { return os.WriteFile(name, []byte("root:secret"), 0o600) },
		"endless": func() error { return errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, 1<<50)) },
	} {
		t.Run(what, func(t *testing.T) {
			if err := put(); err != nil {
				t.Skip(err) // no file system makes all of them
			}
			defer os.Remove(name) //nolint:errcheck // a test's
			c, err := readCommit(name)
			require.Error(t, err)
			require.Empty(t, c)
			require.NotContains(t, err.Error(), "secret")
		})
	}
	require.NoError(t, os.WriteFile(name, []byte(good+"\n"), 0o600))
	c, err := readCommit(name)
	require.NoError(t, err)
	require.Equal(t, good, c)
}
