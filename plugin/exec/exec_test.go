package exec

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin/plugintest"
)

func TestMain(m *testing.M) {
	MaybeChild()
	playVictim()
	os.Exit(m.Run())
}

// fixture is an adapter with a place for its jobs.
type fixture struct {
	*Adapter
	dir string
	n   int
}

func newFixture(t *testing.T, o Options) *fixture {
	testenv.Require(t, testenv.Bash)
	dir := t.TempDir()
	if o.RootMode {
		testenv.Require(t, testenv.Root, testenv.Linux)
		// Jobs of another user must get at what is shown to them, and at nothing else.
		for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			require.NoError(t, os.Chmod(d, 0o755))
		}
		o.RunDir = filepath.Join(dir, "run")
		o.Hide = append(o.Hide, filepath.Join(dir, "store"))
	}
	o.StateDir = filepath.Join(dir, "store", "exec")
	o.Log = hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Debug})
	a, err := New(o)
	require.NoError(t, err)
	return &fixture{Adapter: a, dir: dir}
}

// place makes a view as the agent does.
func (f *fixture) place(t *testing.T) plugintest.Place {
	f.n++
	view := filepath.Join(f.dir, "store", "slots", strconv.Itoa(f.n))
	require.NoError(t, os.MkdirAll(view, 0o755))
	if !f.o.RootMode {
		return plugintest.Place{View: view, Path: view}
	}
	require.NoError(t, os.Chmod(filepath.Join(f.dir, "store"), 0o700))
	uid, gid := f.Owner()
	require.NoError(t, os.Chown(view, uid, gid))
	return plugintest.Place{View: view, Path: filepath.Join(f.dir, "run", "builds", "project")}
}

func TestSuite(t *testing.T) {
	modes := []struct {
		name string
		o    Options
	}{
		{"root, cgroup", Options{RootMode: true}},
		{"root, supervisor alone", Options{RootMode: true, noCgroup: true}},
		{"self, cgroup", Options{}},
		{"self, supervisor alone", Options{noCgroup: true}},
	}
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			plugintest.Run(t, func(t *testing.T) plugintest.Fixture {
				f := newFixture(t, m.o)
				return plugintest.Fixture{Adapter: f.Adapter, Place: f.place}
			})
		})
	}
}
