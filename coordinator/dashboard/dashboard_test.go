package dashboard

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1 << 10: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 40: "3.0 TiB", 5000 << 40: "5000.0 TiB"} {
		require.Equal(t, want, bytesText(n))
	}
	for ms, want := range map[float64]string{0: "–", 0.26: "0.3 ms", 12: "12 ms", 2500: "2.5 s", 90_000: "1m30s"} {
		require.Equal(t, want, msText(ms))
	}
	require.Equal(t, "–", spare(Moves{}))
	require.Equal(t, "100.0 %", spare(Moves{Needed: 10}))
	require.Equal(t, "is-other", class(`x" onload="y`))
	require.Equal(t, "0s ago", ago(time.UnixMilli(5), 10), "clocks may disagree")
}

// Only jobs that started on kept files count.
func TestSum(t *testing.T) {
	require.Equal(t, Moves{Jobs: 2, Needed: 30, Moved: 5, AttachMS: 7}, Sum([]api.Job{
		{Workspace: api.Workspace{State: api.StateFull, BytesNeeded: 10, BytesMoved: 5, AttachMS: 3}},
		{Workspace: api.Workspace{State: api.StateFull, BytesNeeded: 20, AttachMS: 7}},
		{Workspace: api.Workspace{State: api.StateFresh, BytesMoved: 99, AttachMS: 99}},
		{},
	}))
}

// The pages of a cluster that has nothing yet say what to do.
func TestEmpty(t *testing.T) {
	p, err := New()
	require.NoError(t, err)
	w := httptest.NewRecorder()
	require.NoError(t, p.Index(w, Frame{Title: "Status", Now: time.Unix(0, 0), Page: Index{}}))
	require.Contains(t, w.Body.String(), "roost run FILE")
	require.NotContains(t, w.Body.String(), "http-equiv", "no refresh unless it is asked for")
	w = httptest.NewRecorder()
	require.NoError(t, p.Login(w, Frame{Title: "Login", Page: Login{}}))
	require.Equal(t, 401, w.Code)
}

// A log is text for people, whatever a job wrote for a terminal.
func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b[31;1mred\x1b[0m\tx\n":                          "red\tx\n",
		"10 %\r50 %\r100 %\r\nnext":                          "100 %\nnext",
		"section_start:1:build\r\x1b[0KBuild":                "Build",
		"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1b(c\x00": "abc",
		"\u009b31mx\xff\x1b":                                 "31mx\ufffd",
		"a\x1b\nb":                                           "a\nb",
	} {
		require.Equal(t, want, plain(in), "%q", in)
	}
}

// The page of a large pipeline begins with what went wrong, and can be read without
// eyes or a mouse: tables have headings, links say where they lead.
func TestLargePipeline(t *testing.T) {
	p, err := New()
	require.NoError(t, err)
	run := Pipeline{Run: Run{Pipeline: api.Pipeline{Number: 7, Status: api.StatusRunning, CreatedMS: 1000}}}
	for i := range 200 {
		j := api.Job{Name: fmt.Sprintf("job %d", i), Status: api.StatusSuccess, AttemptID: "x"}
		if i%50 == 3 {
			j.Status = api.StatusFailed
		}
		run.Jobs = append(run.Jobs, j)
		run.Events = append(run.Events, api.Event{TimeMS: int64(1000 + i), Job: j.Name, Status: j.Status})
	}
	w := httptest.NewRecorder()
	require.NoError(t, p.Pipeline(w, Frame{Title: "Pipeline 7", Refresh: 5, Page: run}))
	body := w.Body.String()
	require.Contains(t, body, `<span class="is is-failed">4 failed</span> <span class="is is-success">196 success</span>`)
	require.Contains(t, body, `<a href="#job-153">job 153</a>`)
	require.Contains(t, body, `<tr id="job-153"><th scope="row">job 153`)
	require.Contains(t, body, `aria-label="log of job 153"`)
	require.Contains(t, body, "<details><summary>200,")
	require.Contains(t, body, `href="?refresh=off"`)
	require.NotContains(t, body, "<th>")
	require.Equal(t, strings.Count(body, "<td "), strings.Count(body, `<td data-l="`), "on a narrow window each value says what it is")

	run.Events = run.Events[:fewEvents]
	w = httptest.NewRecorder()
	require.NoError(t, p.Pipeline(w, Frame{Title: "Pipeline 7", Page: run}))
	require.Contains(t, w.Body.String(), "<details open>")
}

func TestCounts(t *testing.T) {
	require.Empty(t, counts(nil))
	require.Empty(t, failed(nil))
	var all []api.Job
	for range 2 * maxFailed {
		all = append(all, api.Job{Status: api.StatusFailed})
	}
	require.Len(t, failed(all), maxFailed)
	require.Equal(t, "0 s", after(10, 5))
	require.Equal(t, "1.5 s", after(1000, 2500))
}
