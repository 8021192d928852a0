package gitlab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
)

// TestVerify: the tokens are swapped on both ways, and the runner never hears of an expiry.
func TestVerify(t *testing.T) {
	h := newHouse(t)
	r := h.runner(1)
	ask := func(token string) (*http.Response, string) {
		resp, b, err := r.do(t.Context(), "POST", "runners/verify", "", []byte(`{"token":"`+token+`","system_id":"s","x":1e400}`), "Runner-Token", token)
		require.NoError(t, err)
		return resp, string(b)
	}
	resp, body := ask(slotToken)
	require.Equal(t, 200, resp.StatusCode)
	require.JSONEq(t, `{"id":12345678901234567,"token":"`+slotToken+`","token_expires_at":null,"x":1}`, body)
	require.Contains(t, body, "12345678901234567")
	resp, _ = ask("nonsense")
	require.Equal(t, 403, resp.StatusCode)
	resp, _ = ask(realToken)
	require.Equal(t, 403, resp.StatusCode)
	h.gl.set(func() { h.gl.fault = func(*http.Request, []byte) (int, bool) { return 0, true } })
	resp, _ = ask(slotToken)
	require.Equal(t, 502, resp.StatusCode, "GitLab that can't be reached is no bad token")
}

// TestAnsweredHere: what would harm the pool goes nowhere.
func TestAnsweredHere(t *testing.T) {
	h := newHouse(t)
	r := h.runner(1)
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"POST", "runners/reset_authentication_token", 403},
		{"DELETE", "runners", 403},
		{"DELETE", "runners/managers", 403},
		{"GET", "runners/router/discovery", 501},
		{"GET", "projects/1", 404},
		{"PUT", "jobs/1", 403},
	} {
		resp, body, err := r.do(t.Context(), c.method, c.path, "x", []byte(`{"token":"`+slotToken+`"}`), "Runner-Token", slotToken)
		require.NoError(t, err)
		require.Equal(t, c.want, resp.StatusCode, c.path)
		require.Contains(t, string(body), "roost: ")
	}
	require.Zero(t, h.gl.count(""))
}

// TestOneOrigin: whatever a request says of where it wants to go, it goes to GitLab or nowhere.
func TestOneOrigin(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("somebody else was called") }))
	defer elsewhere.Close()
	var seen http.Header
	var host string
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		seen, host = r.Header.Clone(), r.Host
		w.Header().Set("Location", elsewhere.URL+"/x")
		w.WriteHeader(307)
	}))
	defer up.Close()
	h := newHouse(t)
	began(t, h, "5")
	h.aim.at(t, up.URL)
	evil := strings.TrimPrefix(elsewhere.URL, "http://")
	head := "Job-Token: " + jobToken + "5\r\nContent-Length: 2\r\n"
	for target, want := range map[string]string{
		"http://" + evil + "/slot1/api/v4/jobs/5": "404",
		"//" + evil + "/api/v4/jobs/5":            "404",
		"/slot1/api/v4/jobs/5":                    "307",
		"/slot1/api/v4/jobs/5/artifacts":          "307",
	} {
		method := "PUT"
		if strings.HasSuffix(target, "artifacts") {
			method = "POST"
		}
		c, err := net.Dial("tcp", h.addr)
		require.NoError(t, err)
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\n%sX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: %s\r\nForwarded: for=x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Request-Id: rid\r\n\r\n{}", method, target, evil, head, evil)
		line, err := bufio.NewReader(c).ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, want, target)
		c.Close()
		if want == "307" {
			for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Hop"} {
				require.Empty(t, seen.Get(name), name)
			}
			require.Equal(t, "rid", seen.Get("X-Request-Id"))
			require.Contains(t, []string{strings.TrimPrefix(h.gl.ts.URL, "http://"), strings.TrimPrefix(up.URL, "http://")}, host)
		}
	}
	// What is no request line is none of ours to judge, and goes nowhere.
	for _, line := range evilTargets {
		c, err := net.Dial("tcp", h.addr)
		require.NoError(t, err)
		fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: x\r\n%sConnection: close\r\n\r\n{}", line, head)
		b, _ := io.ReadAll(c)
		require.Regexp(t, `^HTTP/1.1 40[04]`, string(b), line)
		c.Close()
	}
}

// TestArtifacts: up and down as they are, of the job's own and of those that it depends on.
func TestArtifacts(t *testing.T) {
	content := make([]byte, 3<<20)
	rand.Read(content)
	h := newHouse(t)
	r, attempt := began(t, h, "5")
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == "POST":
			got, err := io.ReadAll(r.Body)
			if err != nil || !bytes.Equal(got, content) || r.Header.Get("Job-Token") != jobToken+"5" || r.URL.RawQuery != "artifact_format=zip&expire_in=1+day" || r.ContentLength != -1 {
				w.WriteHeader(400)
				return
			}
			w.WriteHeader(201)
		case r.URL.Query().Get("direct_download") != "":
			w.Header().Set("Location", "/storage?x=1")
			w.WriteHeader(302)
		default:
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(content)
		}
	}))
	defer up.Close()
	h.aim.at(t, up.URL)
	post := func(path, token string) int {
		req, err := http.NewRequest("POST", "http://"+h.addr+path, struct{ io.Reader }{bytes.NewReader(content)}) // chunked
		require.NoError(t, err)
		req.Header.Set("Job-Token", token)
		resp, err := r.c.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	const query = "?artifact_format=zip&expire_in=1+day"
	require.Equal(t, 201, post("/slot1/api/v4/jobs/5/artifacts"+query, jobToken+"5"))
	require.Equal(t, 201, post("/api/v4/jobs/5/artifacts"+query, jobToken+"5"), "a redirect within the runner loses the slot")
	require.Equal(t, 403, post("/slot2/api/v4/jobs/5/artifacts"+query, jobToken+"5"))
	require.Equal(t, 403, post("/slot1/api/v4/jobs/5/artifacts"+query, "dep-CANARY-11"))

	get := func(id, token, query string) (*http.Response, []byte) {
		r.c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		resp, b, err := r.do(t.Context(), "GET", "jobs/"+id+"/artifacts"+query, token, nil, "Accept-Encoding", "identity")
		require.NoError(t, err)
		return resp, b
	}
	for _, token := range []string{"dep-CANARY-11", jobToken + "5"} { // GitLab's flag decides which
		resp, b := get("11", token, "")
		require.Equal(t, 200, resp.StatusCode)
		require.True(t, bytes.Equal(content, b))
		require.Equal(t, "gzip", resp.Header.Get("Content-Encoding"))
	}
	resp, _ := get("11", "dep-CANARY-11", "?direct_download=true")
	require.Equal(t, 302, resp.StatusCode)
	require.Equal(t, up.URL+"/storage?x=1", resp.Header.Get("Location"), "relative to us it would be ours")
	for _, c := range [][2]string{{"11", "dep-CANARY-12"}, {"13", jobToken + "5"}, {"11", ""}, {"11", slotToken}} {
		resp, _ = get(c[0], c[1], "")
		require.Equal(t, 403, resp.StatusCode, c)
	}
	require.NoError(t, h.p.Lost(t.Context(), attempt, "fenced"))
	require.Equal(t, 403, post("/slot1/api/v4/jobs/5/artifacts"+query, jobToken+"5"))
	resp, _ = get("11", "dep-CANARY-11", "")
	require.Equal(t, 403, resp.StatusCode)
}

// TestLostInMidStream: a transfer ends with the job's right.
func TestLostInMidStream(t *testing.T) {
	h := newHouse(t)
	r, attempt := began(t, h, "5")
	half := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		w.Write(make([]byte, 500000))
		w.(http.Flusher).Flush()
		close(half)
		<-r.Context().Done()
	}))
	defer up.Close()
	h.aim.at(t, up.URL)
	go func() {
		<-half
		time.Sleep(100 * time.Millisecond)
		h.p.Lost(context.Background(), attempt, "fenced")
	}()
	resp, _, err := r.do(t.Context(), "GET", "jobs/11/artifacts", "dep-CANARY-11", nil)
	if err == nil { // it was lost before its answer had begun
		require.NotEqual(t, http.StatusOK, resp.StatusCode, "a short body must not look whole")
	}
}

// TestTokensStaySecret: no token is in a log at its highest level, in an answer to somebody else, or in
// a record of a job that is done.
func TestTokensStaySecret(t *testing.T) {
	var log bytes.Buffer
	h := newHouse(t, func(h *house) {
		h.o.Log = hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Trace, JSONFormat: true})
		h.cfg.FinalMS = 50
	})
	r, _ := began(t, h, "5")
	r.print("5", "x\n")
	h.gl.set(func() {
		n := 0
		h.gl.fault = func(*http.Request, []byte) (int, bool) { n++; return []int{0, 500, 400}[n%3], n < 8 }
	})
	var answers strings.Builder
	for range 3 {
		_, b := r.must("5", "running")
		answers.Write(b)
		r.print("5", "y\n")
	}
	r.must("5", "success")
	eventually(t, func() bool { return h.gl.job("5").status == "success" }, "never told")
	h.agent.queue <- &plugin.Grant{Attempt: "0000000000000000000000000x", Payload: []byte(`{"id":1,"token":["` + jobToken + `"]}`)}
	h.agent.queue <- &plugin.Grant{Attempt: "0000000000000000000000000y", Payload: []byte(`{"id":1,"token":"` + jobToken + `","variables":{"` + jobToken + `":1}}`)}
	began(t, h, "6")
	for _, token := range []string{"x", realToken} {
		_, b, err := r.do(t.Context(), "POST", "jobs/request", jobToken+"6", []byte(`{"token":"`+token+`"}`), "Runner-Token", slotToken)
		require.NoError(t, err)
		answers.Write(b)
	}
	resp, b, err := r.do(t.Context(), "PUT", "jobs/6", "x"+jobToken, []byte(`{"token":"`+jobToken+`6"}`))
	require.NoError(t, err)
	require.Equal(t, 403, resp.StatusCode)
	answers.Write(b)
	h.stop()
	require.NotEmpty(t, log.String())
	require.NotContains(t, log.String(), "CANARY")
	require.NotContains(t, answers.String(), "CANARY")
	for _, d := range h.agent.discards {
		require.NotContains(t, d.Reason, "CANARY")
	}
	done, err := os.ReadFile(filepath.Join(h.dir, "jobs", fmt.Sprintf("%026d.json", 5)))
	require.NoError(t, err)
	require.Contains(t, string(done), `"state":"done"`)
	require.NotContains(t, string(done), "CANARY")
}

// TestConfig: what is wrong is named, and no secret with it.
func TestConfig(t *testing.T) {
	good := `"url":"https://gl.example","listen":["127.0.0.1:1"],"builds_dir":"/builds","tokens":["` + realToken + `"],"slots":[{"number":1,"token":"` + slotToken + `"}]`
	c, err := ParseConfig([]byte(`{` + good + `}`))
	require.NoError(t, err)
	require.EqualValues(t, 240_000, c.HoldMS)
	for text, want := range map[string]string{
		`{}`:                      "url",
		`{` + good + `,"uRl2":1}`: "unknown field",
		`{` + good + `,"url":"https://u:CANARY@h"}`:                         "no user",
		`{` + good + `,"url":"ftp://h"}`:                                    "http",
		`{` + good + `,"url":"https://h/a/../b"}`:                           "clean",
		`{` + good + `,"url":"https://CANARY\u0001"}`:                       "not a URL",
		`{` + good + `,"listen":["0.0.0.0:1"]}`:                             "0.0.0.0",
		`{` + good + `,"listen":["localhost:1"]}`:                           "localhost",
		`{` + good + `,"executor":"kubernetes"}`:                            "kubernetes",
		`{` + good + `,"builds_dir":"x"}`:                                   "builds_dir",
		`{` + good + `,"slots":[]}`:                                         "at least one",
		`{` + good + `,"slots":[{"number":0}]}`:                             "begin with 1",
		`{` + good + `,"slots":[{"number":1,"token":"CANARY"}]}`:            "16",
		`{` + good + `,"slots":[{"number":1,"token":"` + realToken + `"}]}`: "real token",
		`{` + good + `,"slots":[{"number":1,"token":"` + slotToken + `"},{"number":2,"token":"` + slotToken + `"}]}`: "same token",
		`{` + good + `,"slots":[{"number":1,"token":"` + slotToken + `"},{"number":1,"token":"` + slotToken + `"}]}`: "twice",
	} {
		_, err := ParseConfig([]byte(text))
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "CANARY", text)
	}
	p := New(Options{})
	require.Error(t, p.Serve(t.Context(), plugin.Settings{Dir: t.TempDir(), Slots: []int{2}, Config: []byte(`{` + good + `}`)}, newFakeAgent()))
}

// TestStreamsInLittleMemory: an archive is never held, whatever its size.
func TestStreamsInLittleMemory(t *testing.T) {
	const size = 128 << 20
	h := newHouse(t)
	began(t, h, "5")
	up := httptest.NewServer(artifactServer(size))
	defer up.Close()
	h.aim.at(t, up.URL)
	c := &http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		move(t, c, method, "http://"+h.addr+"/slot1", size)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		move(t, c, method, "http://"+h.addr+"/slot1", size)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20), "%s: with client and server", method)
	}
}

// TestPrivateCA: a GitLab with certificates of its own is trusted by ca_file, and nobody else.
func TestPrivateCA(t *testing.T) {
	up := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"token":"` + realToken + `"}`)) }))
	defer up.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: up.Certificate().Raw})
	require.NoError(t, os.WriteFile(file, cert, 0o600))
	for ca, want := range map[string]int{file: 200, "": 502} {
		h := newHouse(t, func(h *house) { h.cfg.URL, h.cfg.CAFile, h.o.Transport = up.URL, ca, nil })
		r := h.runner(1)
		resp, body, err := r.do(t.Context(), "POST", "runners/verify", "", []byte(`{"token":"`+slotToken+`"}`))
		require.NoError(t, err)
		require.Equal(t, want, resp.StatusCode, string(body))
		h.stop()
		h.p.s.up.rt.(*http.Transport).CloseIdleConnections()
	}
	for _, bad := range []string{"/nowhere", filepath.Join(t.TempDir())} {
		_, err := newTransport(bad)
		require.Error(t, err)
	}
	require.NoError(t, os.WriteFile(file, []byte("no certificate"), 0o600))
	_, err := newTransport(file)
	require.ErrorContains(t, err, "no certificate")
}
