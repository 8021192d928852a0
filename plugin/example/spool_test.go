package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/plugintest"
	"github.com/roost-ci/roost/plugin/wire"
)

// TestMain makes the test's binary a plugin, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "plugin" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestPlugin is the suite that every plugin should pass.
func TestPlugin(t *testing.T) {
	plugintest.RunPlugin(t, plugintest.PluginFixture{
		Command: wire.Command{Path: os.Args[0], Args: []string{"spool", "plugin"}, Env: []string{"PATH=" + os.Getenv("PATH")}},
		Driver: func(t *testing.T) plugintest.Driver {
			d := &driver{spool: t.TempDir(), marks: t.TempDir()}
			for _, sub := range []string{"new", "done"} {
				require.NoError(t, os.Mkdir(filepath.Join(d.spool, sub), 0o755))
			}
			return d
		},
	})
}

// driver plays the people who put jobs into the spool. Scripts leave marks.
type driver struct{ spool, marks string }

func (d *driver) Config(string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"spool": %q}`, d.spool))
}

func (d *driver) mark(name, what string) string { return filepath.Join(d.marks, name+"."+what) }

func (d *driver) Submit(t testing.TB, j plugintest.TestJob) []byte {
	wait := ""
	if j.Waits {
		wait = fmt.Sprintf("until test -e %s; do sleep 0.02; done", d.mark(j.Name, "go"))
	}
	// The script's own lock says whether it still runs.
	script := fmt.Sprintf("SECRET=%s\nexec 9>%s\nflock 9\necho x >> %s\necho hello\n%s\nexit %d",
		j.Secret, d.mark(j.Name, "lock"), d.mark(j.Name, "began"), wait, j.Exit)
	b, err := json.Marshal(map[string]string{"script": script})
	require.NoError(t, err)
	require.NoError(t, writeFile(filepath.Join(d.spool, "new", j.Name+".json"), b))
	return nil
}

func (d *driver) Release(t testing.TB, name string) {
	require.NoError(t, os.WriteFile(d.mark(name, "go"), nil, 0o600))
}

func (d *driver) Look(t testing.TB, name string) plugintest.Seen {
	began, _ := os.ReadFile(d.mark(name, "began"))
	log, _ := os.ReadFile(filepath.Join(d.spool, "done", name+".log"))
	seen := plugintest.Seen{Began: strings.Count(string(began), "x"), Log: string(log)}
	seen.Running = seen.Began > 0 && locked(t, d.mark(name, "lock"))
	if b, err := os.ReadFile(filepath.Join(d.spool, "done", name+".json")); err == nil {
		var end struct {
			Status plugin.Status
			Dir    string
		}
		require.NoError(t, json.Unmarshal(b, &end))
		seen.Ended, seen.Dir = []plugin.Status{end.Status}, end.Dir
	}
	return seen
}
