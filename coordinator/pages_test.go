package coordinator

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

const evil = `"><img src=x onerror=alert(1)><script>alert(2)</script>`

// Names are text on every page, whatever they say.
func TestPages(t *testing.T) {
	b := newBench(t)
	h := b.newHost(evil, 1, evil)
	p, err := b.user.Submit(t.Context(), "k", api.Submit{
		Project: evil, File: evil, Text: "'" + strings.ReplaceAll(evil, `"`, `''`) + "':\n  stage: test\n  script: x\n",
	})
	if err != nil {
		// A job's name may have rules of its own.
		p, err = b.user.Submit(t.Context(), "k2", api.Submit{Project: evil, File: evil, Text: single})
	}
	require.NoError(t, err)
	c := h.claim()
	require.NoError(t, h.c.Accept(t.Context(), ref(c)))
	require.NoError(t, h.c.Start(t.Context(), ref(c), api.Start{Workspace: api.Workspace{
		State: api.StateFull, Origin: evil, Reason: evil, BytesNeeded: 4 << 20, BytesMoved: 1 << 20, AttachMS: 12,
	}}))
	_, err = h.c.AppendLog(t.Context(), ref(c), 0, []byte("log "+evil+"\xff"))
	require.NoError(t, err)
	_, err = h.end(c, api.Finish{Status: api.StatusFailed, Code: api.FailScript, Reason: evil, ExitCode: 1, Workspace: api.Workspace{
		State: api.StateFull, Origin: evil, Reason: evil, BytesNeeded: 4 << 20, BytesMoved: 1 << 20, AttachMS: 12,
	}})
	require.NoError(t, err)

	for path, want := range map[string]string{
		"/": "75.0 %", "/pipelines/" + p.ID: "4.0 MiB", "/logs/" + string(c.Attempt): "log &#34;&gt;&lt;img",
	} {
		res, body := b.try("GET", path, userToken)
		require.Equal(t, 200, res.StatusCode, path)
		require.Contains(t, body, want, path)
		require.NotContains(t, body, "<img", path)
		require.NotContains(t, body, "<script", path)
		require.NotContains(t, body, "style=", path)
		csp := res.Header.Get("Content-Security-Policy")
		require.Contains(t, csp, "default-src 'none'")
		require.NotContains(t, csp, "unsafe")
	}
	res, body := b.try("GET", "/", userToken)
	require.Contains(t, body, `http-equiv="refresh"`)
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	res, body = b.try("GET", "/style.css", userToken)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.NotContains(t, body, "url(")
	res, _ = b.try("GET", "/pipelines/99", userToken)
	require.Equal(t, 404, res.StatusCode)
	_, body = b.try("GET", "/?refresh=off", userToken)
	require.NotContains(t, body, "http-equiv")
	require.Contains(t, body, "go on")
}

// Whoever has a browser is told what is wrong on a page with a style, and a stranger
// there nothing but that a token is needed.
func TestPagesOfErrors(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Version = "v1.2.3" })
	browser := func(r *http.Request) { r.Header.Set("Accept", "text/html") }
	res, body := b.try("GET", "/", "", browser)
	require.Equal(t, 401, res.StatusCode)
	require.Contains(t, body, "user.token")
	require.NotContains(t, body, "v1.2.3", "a stranger learns no version")
	require.NotContains(t, body, "not this coordinator")
	_, body = b.try("GET", "/?token=wrong", "", browser)
	require.Contains(t, body, "not this coordinator")
	for _, path := range []string{"/bogus", "/pipelines/99", "/logs/x"} {
		_, there := b.try("GET", path, "", browser)
		require.Contains(t, there, "user.token", path)
	}
	res, _ = b.try("GET", "/style.css", "")
	require.Equal(t, 200, res.StatusCode)

	res, _ = b.try("GET", "/?token="+userToken, "", browser)
	require.Equal(t, 303, res.StatusCode)
	session := res.Cookies()[0]
	for path, want := range map[string]int{"/bogus": 404, "/pipelines/99": 404, "/logs/x": 400, "/style.css/x": 404} {
		res, body = b.try("GET", path, "", browser, func(r *http.Request) { r.AddCookie(session) })
		require.Equal(t, want, res.StatusCode, path)
		require.Contains(t, body, "<h1>", path)
		require.Contains(t, body, "All hosts and pipelines", path)
	}
	res, body = b.try("GET", "/v1/pipelines/99", userToken, browser)
	require.Equal(t, 404, res.StatusCode)
	require.Contains(t, body, `"code"`, "programs get JSON")
}
