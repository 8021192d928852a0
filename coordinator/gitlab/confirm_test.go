package gitlab

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestConfirm: only a whole answer of the server itself that says the same is a yes, and what can
// change is told from what can't.
func TestConfirm(t *testing.T) {
	const good = `{"id":5,"name":"build","stage":"one","status":"running","ref":"main","tag":false,"web_url":"https://h/group/demo/-/jobs/5",
		"pipeline":{"id":9,"project_id":7,"ref":"main","sha":"abc"}}`
	payload := []byte(`{"id":5,"token":"t","job_info":{"name":"build","stage":"one","project_id":7,"project_full_path":"group/demo","pipeline_id":9},
		"git_info":{"ref":"main","sha":"abc","protected":true}}`)
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/api/v4/job" || r.Header.Get("JOB-TOKEN") != "t" {
				status, body = 404, ""
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for name, c := range map[string]struct {
		do   http.HandlerFunc
		want error
	}{
		"yes":          {answer(200, good), nil},
		"over":         {answer(200, strings.Replace(good, "running", "success", 1)), ErrNotConfirmed},
		"another":      {answer(200, strings.Replace(good, `"id":5`, `"id":6`, 1)), ErrNotConfirmed},
		"no project":   {answer(200, strings.Replace(good, `"project_id":7,`, ``, 1)), ErrNotConfirmed},
		"no pipeline":  {answer(200, `{"id":5,"ref":"main"}`), ErrNotConfirmed},
		"a page":       {answer(200, "<html>"), ErrNotConfirmed},
		"nothing":      {answer(200, ""), ErrNotConfirmed},
		"endless":      {answer(200, strings.Repeat(" ", maxNeeds)+good), ErrNotConfirmed},
		"unauthorized": {answer(401, good), ErrNotConfirmed},
		"unknown":      {answer(404, ""), ErrNotConfirmed},
		"elsewhere":    {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) }, ErrNotConfirmed},
		"ill":          {answer(502, good), ErrNoWord},
		"busy":         {answer(429, ""), ErrNoWord},
		"broken":       {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ErrNoWord},
	} {
		s := httptest.NewServer(c.do)
		j, err := Parse("h", payload)
		require.NoError(t, err)
		sure, err := New(Options{Board: &stub{}}).Confirm(t.Context(), s.URL, j)
		s.Close()
		require.ErrorIs(t, err, c.want, name)
		if c.want != nil {
			require.Nil(t, sure, name)
			continue
		}
		require.Equal(t, ZoneProtected, j.Zone)
		require.Regexp(t, `^ref-[0-9a-z]{26}$`, sure.Zone, "what the server did not say")
		require.Equal(t, j.PipelineID, sure.PipelineID)
	}
	branch := confirmed{Ref: "v1"}
	tag := confirmed{Ref: "v1", Tag: true}
	require.NotEqual(t, branch.zone(), tag.zone())
}
