package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

func TestStatus(t *testing.T) {
	now := time.UnixMilli(100_000)
	s := &status{
		Hosts: []api.Host{
			{Name: "a\x1b[2J", State: api.HostReady, Slots: 2, Running: 1, Snapshots: 7, Queue: 3 << 20, DiskFree: 5 << 30, SeenMS: 98_000},
			{Name: "b", State: api.HostLost, Slots: 1, SeenMS: 1},
			{Name: "c", State: api.HostLeft, Slots: 1},
		},
		Pipelines: []api.Pipeline{
			{Number: 2, Project: "game", Status: api.StatusRunning, CreatedMS: 40_000, Jobs: []api.Job{
				{Status: api.StatusSuccess}, {Status: api.StatusRunning}, {Status: api.StatusAssigned}, {Status: api.StatusQueued}, {Status: api.StatusPending},
			}},
			{Number: 1, Project: "game", Status: api.StatusFailed, CreatedMS: 10_000, EndedMS: 13_000, Jobs: []api.Job{{Status: api.StatusFailed}}},
		},
	}
	var b bytes.Buffer
	require.NoError(t, s.print(&b, now))
	require.Equal(t, `HOST  STATE  JOBS    SNAPSHOTS  TO UPLOAD  DISK FREE  LAST HEARD
a[2J  ready  1 of 2  7          3.0 MiB    5.0 GiB    2s ago
b     lost   0 of 1  0          0 B        0 B        1m40s ago
c     left   0 of 1  0          0 B        0 B        -

PIPELINE  STATUS   TOOK  ENDED   RUNNING  WAITING  PROJECT
2         running  1m0s  1 of 5  2        2        game
1         failed   3s    1 of 1  0        0        game
`, b.String())
}

const testToken = "0123456789abcdef0123456789abcdef"

// The command asks a coordinator, and says by its status why it can't.
func TestStatusCommand(t *testing.T) {
	pipeline := api.Pipeline{ID: "P", Number: 4, Project: "game", Status: api.StatusRunning}
	mux := http.NewServeMux()
	answer := func(path string, v any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+testToken {
				w.WriteHeader(http.StatusUnauthorized)
				json.NewEncoder(w).Encode(api.Error{Code: api.CodeUnauthorized, Text: "who?"}) //nolint:errcheck // a test's answer
				return
			}
			json.NewEncoder(w).Encode(v) //nolint:errcheck // a test's answer
		})
	}
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	answer("/v1/hosts", []api.Host{{Name: "a", State: api.HostReady}})
	answer("/v1/pipelines", []api.Pipeline{pipeline})
	pipeline.Jobs = []api.Job{{Name: "build", Status: api.StatusRunning}}
	answer("/v1/pipelines/P", pipeline)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	home := t.TempDir()
	good, bad := filepath.Join(home, "good"), filepath.Join(home, "bad")
	require.NoError(t, os.WriteFile(good, []byte(testToken), 0o600))
	require.NoError(t, os.WriteFile(bad, []byte("x"+testToken), 0o600))

	out := must(t, "status", "--coordinator", srv.URL, "--token-file", good)
	require.Contains(t, out, "a     ready")
	require.Contains(t, out, "0 of 1")
	var st status
	require.NoError(t, json.Unmarshal([]byte(must(t, "status", "--json", "--coordinator", srv.URL, "--token-file", good)), &st))
	require.Equal(t, "build", st.Pipelines[0].Jobs[0].Name)
	require.Equal(t, `{"hosts":[{`, must(t, "status", "--json", "--pipelines", "0", "--coordinator", srv.URL, "--token-file", good)[:11])

	code, _, errs := roost(t, "status", "--coordinator", srv.URL, "--token-file", bad)
	require.Equal(t, exitRefused, code, errs)
	srv.Close()
	code, _, errs = roost(t, "status", "--coordinator", srv.URL, "--token-file", good)
	require.Equal(t, exitUnreachable, code, errs)
	code, _, errs = roost(t, "status", "--state", home)
	require.Equal(t, exitUnreachable, code, errs)
	require.Contains(t, errs, "roost up")
}
