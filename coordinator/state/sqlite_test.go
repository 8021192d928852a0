package state_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/coordinator/state/statetest"
	"github.com/roost-ci/roost/snapshot"
)

func TestSQLite(t *testing.T) {
	statetest.Run(t, func(ctx context.Context, dir string) (state.Store, error) {
		return state.OpenSQLite(ctx, dir)
	})
}

func TestNewerSchema(t *testing.T) {
	dir := t.TempDir()
	s, err := state.OpenSQLite(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	db, err := sql.Open("sqlite", filepath.Join(dir, "coordinator.db"))
	require.NoError(t, err)
	_, err = db.Exec("PRAGMA user_version = 99")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = state.OpenSQLite(t.Context(), dir)
	require.ErrorIs(t, err, snapshot.ErrNewerFormat)
	_, err = state.OpenSQLite(t.Context(), dir)
	require.ErrorIs(t, err, snapshot.ErrNewerFormat, "it let go of the lock")
}

// What version 1 of the schema has, version 2 reads.
func TestOlderSchema(t *testing.T) {
	dir := t.TempDir()
	s, err := state.OpenSQLite(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, s.Apply(t.Context(), &state.Batch{
		Pipelines: []*state.Pipeline{{ID: "P", Version: 1, Number: 3, Project: "p", Key: "k", Status: api.StatusRunning, Jobs: []string{"J"}}},
		Jobs:      []*state.Job{{ID: "J", Version: 1, Pipeline: "P", Def: &state.Def{Spec: api.JobSpec{Name: "j"}}}},
	}))
	require.NoError(t, s.Close())
	db, err := sql.Open("sqlite", filepath.Join(dir, "coordinator.db"))
	require.NoError(t, err)
	for _, q := range []string{"DROP TABLE payloads", "PRAGMA user_version = 1"} {
		_, err = db.Exec(q)
		require.NoError(t, err)
	}
	require.NoError(t, db.Close())
	for range 2 {
		s, err = state.OpenSQLite(t.Context(), dir)
		require.NoError(t, err)
		l, err := s.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, int64(3), l.Number)
		require.Equal(t, "j", l.Jobs[0].Def.Spec.Name)
		require.NoError(t, s.Apply(t.Context(), &state.Batch{Payloads: []state.Payload{{Job: "J", Sealed: []byte("x")}}}))
		require.NoError(t, s.Close())
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s, err := state.OpenSQLite(t.Context(), dir)
	require.NoError(t, err)
	_, err = state.OpenSQLite(t.Context(), dir)
	var locked *state.LockedError
	require.ErrorAs(t, err, &locked)
	require.Contains(t, locked.Holder, strconv.Itoa(os.Getpid()))
	require.NoError(t, s.Close())
	s, err = state.OpenSQLite(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

func TestOddDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a ?#%41&b", "c")
	s, err := state.OpenSQLite(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.FileExists(t, filepath.Join(dir, "coordinator.db"))
}

// A damaged file is an error in words, not a panic and not an empty state.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "coordinator.db"), []byte("this is not a database, and it is long enough to look at"), 0o600))
	_, err := state.OpenSQLite(t.Context(), dir)
	require.ErrorContains(t, err, dir)
}

const childDir = "ROOST_STATE_TEST_DIR"

// TestChild is the process that TestKill kills.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("only as a child of TestKill")
	}
	s, err := state.OpenSQLite(t.Context(), dir)
	require.NoError(t, err)
	l, err := s.Load(t.Context())
	require.NoError(t, err)
	for n := l.Number + 1; ; n++ {
		require.NoError(t, s.Apply(t.Context(), &state.Batch{
			Pipelines: []*state.Pipeline{{ID: fmt.Sprint(n), Version: 1, Number: n, Project: "p", Key: fmt.Sprint(n), Status: api.StatusRunning}},
			Events:    []state.Event{{Pipeline: fmt.Sprint(n), Event: api.Event{Seq: 1}}},
		}))
		os.Stdout.WriteString("ack " + strconv.FormatInt(n, 10) + "\n") //nolint:errcheck // the parent reads it
	}
}

// What was acknowledged is there after kill -9 at any moment, whole.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	acked := int64(0)
	for i := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		var kill *time.Timer
		killAfter := func(d time.Duration) {
			kill = time.AfterFunc(d, func() { cmd.Process.Kill() }) //nolint:errcheck // Wait tells
		}
		// Every other one wherever it is by then, which on a busy machine is before its first word.
		if i%2 == 1 {
			killAfter(time.Duration(100+37*i) * time.Millisecond)
		}
		for lines.Scan() {
			if n, ok := cutInt(lines.Text()); ok {
				acked = n
				if kill == nil {
					killAfter(time.Duration(37*i) * time.Millisecond)
				}
			}
		}
		cmd.Wait() //nolint:errcheck // it was killed
		if kill != nil {
			kill.Stop()
		}

		s, err := state.OpenSQLite(t.Context(), dir)
		require.NoError(t, err, "the lock of a dead process is free")
		l, err := s.Load(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, l.Number, acked)
		require.LessOrEqual(t, l.Number, acked+1)
		require.Len(t, l.Pipelines, int(l.Number))
		for n := int64(1); n <= l.Number; n++ {
			es, err := s.Events(t.Context(), fmt.Sprint(n), 0, 9)
			require.NoError(t, err)
			require.Len(t, es, 1, "batch %d is whole", n)
		}
		require.NoError(t, s.Close())
	}
	require.Positive(t, acked)
}

func cutInt(line string) (int64, bool) {
	if len(line) < 5 || line[:4] != "ack " {
		return 0, false
	}
	n, err := strconv.ParseInt(line[4:], 10, 64)
	return n, err == nil
}

// BenchmarkApply measures durable batches, as the loop makes them.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, err := state.OpenSQLite(b.Context(), b.TempDir())
			require.NoError(b, err)
			defer s.Close() //nolint:errcheck // a benchmark
			seq := int64(0)
			for b.Loop() {
				batch := &state.Batch{}
				for range size {
					seq++
					batch.Events = append(batch.Events, state.Event{Pipeline: "p", Event: api.Event{Seq: seq, Text: "assigned to a: it has the files"}})
				}
				require.NoError(b, s.Apply(b.Context(), batch))
			}
			b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
