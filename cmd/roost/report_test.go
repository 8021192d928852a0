package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

func TestNormalURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://Example.org/a/B.git":           "example.org/a/B",
		"https://user:secret@example.org/a/b":   "example.org/a/b",
		"git@example.org:a/b.git":               "example.org/a/b",
		"ssh://git@example.org:2222/a/b.git/":   "example.org/a/b",
		"/srv/git/b.git":                        "/srv/git/b",
		"file:///srv/git/b":                     "/srv/git/b",
		"http://[::1]:8080/x":                   "[/x", // nobody names a project so; it must only be stable
		"example.org":                           "example.org",
		"https://example.org/" + "group/sub/x/": "example.org/group/sub/x",
	} {
		require.Equal(t, want, normalURL(in), in)
	}
}

func TestCleanKeepsColoursAndNothingElse(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttab":                             "plain\ttab",
		"\x1b[31mred\x1b[0m":                     "\x1b[31mred\x1b[0m",
		"\x1b[2J\x1b[Hgone":                      "[2J[Hgone",
		"\x1b]0;title\x07x":                      "]0;titlex",
		"progress 1\rprogress 2":                 "progress 2",
		"windows\r":                              "windows",
		"\x1b[" + strings.Repeat("1;", 40) + "m": "[" + strings.Repeat("1;", 40) + "m",
		"caf\xc3\xa9":                            "café",
		"\u009b2Jgone\u009d0;x\u0085":            "2Jgone0;x",
	} {
		require.Equal(t, want, clean([]byte(in), true), "%q", in)
	}
}

// pipelineOf has a job that hands 100 MiB to two others, one of which fetched.
func pipelineOf() *api.Pipeline {
	const mib = 1 << 20
	out := snapshot.ID("00000000000000000000000001")
	full := func(moved int64, src string) api.Workspace {
		return api.Workspace{
			State: api.StateFull, Origin: api.OriginParent, Source: src, Inputs: []string{string(out)},
			BytesNeeded: 100 * mib, BytesMoved: moved,
		}
	}
	return &api.Pipeline{
		ID: "p", Number: 3, Status: api.StatusSuccess, CreatedMS: 1000, EndedMS: 5000,
		Jobs: []api.Job{
			{
				Name: "make", Status: api.StatusSuccess, StartMS: 1500, Workspace: api.Workspace{State: api.StateFresh, Origin: api.OriginNone, Output: out},
				Layer: api.LayerRef{PlainBytes: 50 * mib, EncodeMS: 500, TreeBytes: 100 * mib},
			},
			{Name: "use", Status: api.StatusSuccess, Workspace: full(0, api.SourceLocal)},
			{Name: "far", Status: api.StatusSuccess, Workspace: full(20*mib, api.SourceStore)},
		},
	}
}

func TestSavings(t *testing.T) {
	r := newReport(pipelineOf())
	require.Equal(t, int64(180<<20), r.Saved.BytesNotMoved)
	require.InDelta(t, 100<<20, r.Saved.EncodeRate, 1)
	require.Equal(t, int64(1000), r.Saved.EstimatedMS, "one archive of 100 MiB at 100 MiB/s: both children would have used it")
	require.Equal(t, int64(4000), r.WallMS)
	require.Equal(t, int64(500), r.Jobs[0].StartMS)
	require.Contains(t, savedLine(r.Saved), "180 MiB")
	require.Contains(t, savedLine(r.Saved), "estimate")
}

func TestSavingsWithoutAnEncodedLayerAreNotGuessed(t *testing.T) {
	p := pipelineOf()
	p.Jobs[0].Layer = api.LayerRef{}
	s := newReport(p).Saved
	require.Zero(t, s.EstimatedMS)
	require.Contains(t, savedLine(s), "too little")
}

func TestTable(t *testing.T) {
	var b strings.Builder
	p := pipelineOf()
	printTable(&b, p, newReport(p))
	for _, want := range []string{"cold", "local", "fetched 20 MiB", "pipeline 3: success in 4.0s"} {
		require.Contains(t, b.String(), want)
	}
}
