package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/pipeline"
)

func TestEventsSayEachThingOnce(t *testing.T) {
	var out strings.Builder
	f := newFollower(nil, api.Pipeline{Number: 1, Jobs: []api.Job{{Name: "compile everything"}, {Name: "日本"}}}, &out, false)
	began := time.Now()
	for _, e := range []api.Event{
		{Status: api.StatusRunning},
		{Job: "日本", Status: api.StatusQueued},
		{Job: "日本", Status: api.StatusQueued, Code: api.WaitSlot, Text: "host-a could run it and is full"},
		{Job: "日本", Status: api.StatusQueued, Code: api.WaitHost, Text: "no host has the tags gpu"},
		{Job: "日本", Status: api.StatusAssigned, Text: "assigned to host-a: it has the files"},
		{Job: "日本", Status: api.StatusQueued, Code: api.WaitSlot, Text: "host-lost on host-a: its lease ended; tried again"},
		{Job: "日本", Status: api.StatusAssigned, Text: "assigned to host-b: it is there"},
		{Job: "日本", Status: api.StatusRunning, Text: "running on a FULL workspace: output of x"},
		{Job: "日本", Status: api.StatusSuccess, Text: "success", TimeMS: 2500},
		{Job: "日本", Status: api.StatusSkipped, Text: "waits for \"x\", which failed"},
		{Job: "compile everything", Status: api.StatusAssigned, Text: "assigned"},
	} {
		e.TimeMS += began.UnixMilli()
		f.event(t.Context(), e, nil)
	}
	var got []string
	for _, l := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		_, l, _ = strings.Cut(strings.TrimSpace(l), "s  ") // when
		got = append(got, l)
	}
	require.Equal(t, []string{
		"日本               queued    no host has the tags gpu",
		"日本               assigned  to host-a: it has the files",
		"日本               queued    host-lost on host-a: its lease ended; tried again",
		"日本               assigned  to host-b: it is there",
		"日本               running   on a FULL workspace: output of x",
		"日本               success   in 2.5s",
		"日本               skipped   waits for \"x\", which failed",
		"compile everything assigned",
	}, got)
}

func TestEventTextOfAConflictIsOneLine(t *testing.T) {
	const conflict = "merge conflict (modify/modify) at \"f\": jobs \"a\" and \"b\" disagree. Three ways out: let one write it; say who wins; or stop inheriting"
	require.Equal(t, `merge conflict (modify/modify) at "f": jobs "a" and "b" disagree`,
		eventText(api.Event{Job: "j", Status: api.StatusFailed, Text: "failed: " + conflict}))
	require.Equal(t, []string{
		`merge conflict (modify/modify) at "f": jobs "a" and "b" disagree. Three ways out:`,
		"  - let one write it", "  - say who wins", "  - stop inheriting",
	}, strings.Split(reasonLines(conflict), "\n"))
	require.Equal(t, "x; y", reasonLines("x; y"))
}

func TestStateThatCanNotBeLockedIsNotHeld(t *testing.T) {
	state := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(state, "lock"), 0o700)) // stands in for a read-only disk
	err := (&cluster{state: state}).take()
	require.Error(t, err)
	require.NotContains(t, err.Error(), "held by")
}

func TestHowAProcessDied(t *testing.T) {
	killed := errors.New("signal: killed")
	for said, want := range map[string]string{
		"2026 [INFO] served\n2026 [INFO] again": "signal: killed",
		"roost: the port is taken\n   stop it":  "the port is taken",
	} {
		require.Equal(t, want, howDied(&childError{name: "c", said: said, err: killed}))
	}
	require.Equal(t, "signal: killed", howDied(killed))
}

func TestNoColoursWhereNobodySeesThem(t *testing.T) {
	require.Equal(t, "red x\ufffd", clean([]byte("\x1b[31mred\x1b[0m x\xff"), false))
}

func TestTagsThatNoAgentHas(t *testing.T) {
	run := func(tags []string, jobs ...string) error {
		o := runOptions{hosts: 2, tags: tags, graph: &pipeline.Graph{}}
		for _, j := range jobs {
			var list []string
			if j != "" {
				list = strings.Split(j, ",")
			}
			o.graph.Jobs = append(o.graph.Jobs, pipeline.Job{Spec: api.JobSpec{Name: "job of " + j}, Tags: list})
		}
		return o.tagsMet()
	}
	require.NoError(t, run(nil, "", "host-a", "host-b"))
	require.NoError(t, run([]string{"linux", "gpu"}, "linux", "gpu,host-b", "linux,gpu"))
	require.ErrorContains(t, run([]string{"linux"}, "linux", "linux,gpu", "docker,host-a"), `"job of linux,gpu" asks for tags that no agent here has: docker, gpu`)
	require.Error(t, run(nil, "host-a,host-b"), "no host is both")
	require.Error(t, run(nil, "host-c"))
}

func TestShorten(t *testing.T) {
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"日本", 4, "日本"}, {"日本", 3, "日…"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"}, {"é", 1, "é"}, {"", 0, ""},
	} {
		require.Equal(t, c.want, shorten(c.in, c.most), "%+v", c)
		require.LessOrEqual(t, width(c.want), c.most)
	}
}
