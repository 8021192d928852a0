package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stub is a board in the test's hands.
type stub struct {
	mu      sync.Mutex
	work    Work
	changed chan struct{}
	taken   []*Job
	refuse  error
	over    []string
}

func (b *stub) Look() (Work, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.work, b.changed
}

func (b *stub) set(f func(*Work)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.work)
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

func (b *stub) Take(_ context.Context, _ Pool, j *Job, _ []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse == nil {
		b.taken = append(b.taken, j)
		for i := range b.work.Wants {
			b.work.Wants[i].Free--
		}
	}
	return b.refuse
}

func (b *stub) jobs() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.taken)
}

func (b *stub) Token(context.Context, string) (Secret, error) { return "job-token", nil }
func (b *stub) Intend(context.Context, string, string) (Log, bool, error) {
	return Log{}, false, nil
}
func (b *stub) Wrote(context.Context, string, Log) (int64, error)   { return 0, nil }
func (b *stub) Needs(context.Context, string, []string, bool) error { return nil }
func (b *stub) Over(_ context.Context, id, why string, _ bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = append(b.over, id+": "+why)
	return nil
}

func (b *stub) Told(_ context.Context, id string) error {
	b.set(func(w *Work) { w.Jobs = nil })
	return nil
}

// server answers requests for jobs one after the other as the script says.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	at     []time.Time
	bodies []map[string]any
	puts   []string
}

func newServer(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var in map[string]any
		json.Unmarshal(b, &in)
		s.mu.Lock()
		if r.Method != http.MethodPost {
			s.puts = append(s.puts, r.Method+" "+r.URL.Path+" "+fmt.Sprint(in["state"]))
			s.mu.Unlock()
			w.WriteHeader(200)
			return
		}
		s.at, s.bodies = append(s.at, time.Now()), append(s.bodies, in)
		n := len(s.at)
		s.mu.Unlock()
		answer(n, w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.at)
}

func (s *server) want(free int, tokens ...string) []Want {
	var out []Want
	for _, t := range tokens {
		out = append(out, Want{
			Pool: Pool{Name: "p", URL: s.URL, Runner: json.RawMessage(`{"info":{"features":{"x":true},"name":"r"},"token":"local","last_update":"old","session":{}}`)}, Token: Secret(t), Free: free, Tokens: len(tokens),
		})
	}
	return out
}

// serve runs a service until the test ends, or stop is called and it has ended.
func serve(t *testing.T, b *stub, edit ...func(*Options)) (stop func()) {
	t.Helper()
	o := Options{Board: b, Interval: 60 * time.Millisecond, Retry: 20 * time.Millisecond, KeepAlive: 50 * time.Millisecond}
	for _, f := range edit {
		f(&o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(o).Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func until(t *testing.T, f func() bool) {
	t.Helper()
	require.Eventually(t, f, time.Minute, 2*time.Millisecond)
}

func job(id int) string {
	return fmt.Sprintf(`{"id":%d,"token":"t","job_info":{"project_id":1}}`, id)
}

func give(w http.ResponseWriter, id int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(201)
	io.WriteString(w, job(id))
}

// Nothing is asked without a slot; with one, a job is asked for, and no more than
// there are slots.
func TestPollsForSlotsOnly(t *testing.T) {
	b := &stub{}
	s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) { give(w, n) })
	serve(t, b)
	time.Sleep(50 * time.Millisecond)
	require.Zero(t, s.asked())
	b.set(func(w *Work) { w.Wants = s.want(3, "a") })
	until(t, func() bool { return b.jobs() == 3 })
	time.Sleep(100 * time.Millisecond)
	require.Equal(t, 3, s.asked())
	require.Equal(t, 3, b.jobs())
	in := s.bodies[0]
	require.Equal(t, "a", in["token"])
	require.NotContains(t, in, "session")
	require.NotContains(t, in, "last_update")
	require.Equal(t, map[string]any{"name": "r", "features": map[string]any{"x": true, "two_phase_job_commit": true}}, in["info"])
}

// What the server said last is sent along; an empty answer is followed by the
// interval, unless the request was held longer than that.
func TestPollInterval(t *testing.T) {
	const interval = time.Second
	b := &stub{}
	s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 2 {
			time.Sleep(interval) // held
		}
		w.Header().Set("X-GitLab-Last-Update", fmt.Sprint("u", n))
		w.WriteHeader(204)
	})
	serve(t, b, func(o *Options) { o.Interval = interval })
	began := time.Now()
	b.set(func(w *Work) { w.Wants = s.want(1, "a") })
	until(t, func() bool { return s.asked() >= 4 })
	s.mu.Lock()
	defer s.mu.Unlock()
	require.GreaterOrEqual(t, s.at[1].Sub(began), interval)
	require.Less(t, s.at[2].Sub(s.at[1]), 2*interval)
	require.Equal(t, "u1", s.bodies[1]["last_update"])
	require.Equal(t, "u2", s.bodies[2]["last_update"])
}

// A held request that is answered because the queue changed is followed at once by
// another one, which gets the job; but a queue that changes all the time is not asked
// all the time.
func TestPollQueueChanged(t *testing.T) {
	b := &stub{}
	s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 { // later, it does not say to what it changed
			w.Header().Set("X-GitLab-Last-Update", "u1")
		}
		w.WriteHeader(204)
	})
	const interval = 2 * time.Second
	serve(t, b, func(o *Options) { o.Interval = interval })
	began := time.Now()
	b.set(func(w *Work) { w.Wants = s.want(1, "a") })
	until(t, func() bool { return s.asked() >= 2+maxChanges+1 })
	s.mu.Lock()
	defer s.mu.Unlock()
	const last = 1 + maxChanges
	require.GreaterOrEqual(t, s.at[1].Sub(began), interval)
	require.Less(t, s.at[last].Sub(s.at[1]), interval)
	require.GreaterOrEqual(t, s.at[last+1].Sub(s.at[last-1]), interval) // one is sent after the one before arrived
}

// Two tokens that share a slot take turns, and neither is held.
func TestPollTurns(t *testing.T) {
	b := &stub{}
	s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-GitLab-Last-Update", "u")
		w.WriteHeader(204)
	})
	serve(t, b)
	b.set(func(w *Work) { w.Wants = s.want(1, "a", "b") })
	until(t, func() bool { return s.asked() >= 8 })
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, in := range s.bodies[:8] {
		require.Equal(t, []string{"a", "b"}[i%2], in["token"], "request %d", i)
		require.NotContains(t, in, "last_update")
	}
}

// A conflict means that there may be more: ask again at once, but not for ever.
func TestPollConflict(t *testing.T) {
	b := &stub{}
	s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if n < 5 {
			w.WriteHeader(409)
			return
		}
		if n == 5 {
			give(w, 1)
			return
		}
		w.WriteHeader(409)
	})
	serve(t, b, func(o *Options) { o.Interval = time.Minute })
	began := time.Now()
	b.set(func(w *Work) { w.Wants = s.want(2, "a") })
	until(t, func() bool { return b.jobs() == 1 })
	require.Less(t, time.Since(began), 30*time.Second)
	until(t, func() bool { return s.asked() >= 15 })
	time.Sleep(100 * time.Millisecond)
	require.Equal(t, 15, s.asked(), "ten in a row, then the interval")
}

// A server that asks to be left alone is; one that fails is asked ever less often.
func TestPollTrouble(t *testing.T) {
	b := &stub{}
	s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
		case 2:
			panic(http.ErrAbortHandler)
		case 3, 4:
			w.WriteHeader(503)
		case 5:
			w.WriteHeader(403)
		case 6:
			w.Header().Set("Location", "https://elsewhere.example.com/")
			w.WriteHeader(302)
		default:
			give(w, n)
		}
	})
	serve(t, b, func(o *Options) { o.Retry = 5 * time.Millisecond })
	b.set(func(w *Work) { w.Wants = s.want(1, "a") })
	until(t, func() bool { return b.jobs() == 1 })
	require.GreaterOrEqual(t, s.at[1].Sub(s.at[0]), time.Second)
	require.GreaterOrEqual(t, s.at[5].Sub(s.at[4]), 80*time.Millisecond)
	require.Equal(t, 7, s.asked(), "a redirect is not followed")
}

// A request that may bring a job is answered and what it brings is kept, also when
// the service is told to stop, or when the slot has gone.
func TestPollIsNeverCutOff(t *testing.T) {
	b := &stub{}
	cut := false
	arrived, answer := make(chan struct{}), make(chan struct{})
	s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
		close(arrived)
		select {
		case <-answer:
		case <-r.Context().Done():
			cut = true
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(201)
		io.WriteString(w, job(7)[:10])
		w.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond)
		io.WriteString(w, job(7)[10:])
	})
	stop := serve(t, b)
	b.set(func(w *Work) { w.Wants = s.want(1, "a") })
	<-arrived
	b.set(func(w *Work) { w.Wants = nil })
	time.AfterFunc(100*time.Millisecond, func() { close(answer) })
	stop()
	require.False(t, cut)
	require.Equal(t, 1, b.jobs())
	require.Equal(t, 1, s.asked())
}

// A job that can't be kept now is kept later; one that can't be read or kept at all is
// failed at once rather than left to its time.
func TestPollRefuses(t *testing.T) {
	b := &stub{refuse: errors.New("the disk is full")}
	s := newServer(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1:
			give(w, 7)
		case 2:
			w.WriteHeader(201)
			io.WriteString(w, `{"id":8,"token":"t"}`)
		case 3:
			w.WriteHeader(201)
			io.Copy(w, io.LimitReader(zeros{}, maxJob+5))
		default:
			w.WriteHeader(204)
		}
	})
	serve(t, b)
	b.set(func(w *Work) { w.Wants = s.want(1, "a") })
	until(t, func() bool { return s.asked() == 1 })
	time.Sleep(100 * time.Millisecond)
	require.Equal(t, 1, s.asked())
	b.mu.Lock()
	b.refuse = nil
	b.mu.Unlock()
	until(t, func() bool { return b.jobs() == 1 })
	b.set(func(w *Work) { w.Wants = s.want(1, "a") })
	until(t, func() bool { return s.asked() >= 4 })
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Equal(t, []string{"PUT /api/v4/jobs/8 failed"}, s.puts)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestRequestBody(t *testing.T) {
	for in, ok := range map[string]bool{
		"": true, "null": true, "{}": true, `{"info":null}`: true, `{"info":{"features":null}}`: true,
		`[]`: false, `{"info":3}`: false, `{"info":{"features":"x"}}`: false, "{": false,
	} {
		b, err := requestBody(json.RawMessage(in), "tok", "")
		require.Equal(t, ok, err == nil, in)
		if ok {
			require.JSONEq(t, `{"info":{"features":{"two_phase_job_commit":true}},"token":"tok"}`, string(b))
		}
	}
	require.Contains(t, strings.Join(strings.Fields(string(must(requestBody(nil, "t", "u")))), ""), `"last_update":"u"`)
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
