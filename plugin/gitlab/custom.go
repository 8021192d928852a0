package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/gitlab/custom"
	"github.com/roost-ci/roost/snapshot"
)

// customs serves the custom executor: the runner has its job from GitLab and tells
// GitLab itself; it asks here for a workspace before, and says how the job ended
// after. What is known of a job is durable, as each of the executor's calls is a
// process of its own.
type customs struct {
	s   *service
	dir string

	// mu guards jobs and taken. It is not held across I/O.
	mu    sync.Mutex
	jobs  map[string]*customJob // by GitLab's id
	taken map[int]bool          // slots for which a workspace is being asked
}

// customJob is one record, 0600. It is replaced as a whole.
type customJob struct {
	Attempt   snapshot.ID    `json:"attempt"`
	Slot      int            `json:"slot"`
	Job       string         `json:"job"`
	TokenHash string         `json:"token_hash"`
	Answer    custom.Answer  `json:"answer"`
	Begun     time.Time      `json:"begun"`
	Deadline  time.Time      `json:"deadline"`
	Stages    map[string]int `json:"stages,omitempty"` // exit status; -1 while it runs
	Ended     bool           `json:"ended,omitempty"`
	Outcome   plugin.Outcome `json:"outcome,omitempty"` // "" for success
}

func openCustoms(s *service, dir string) (*customs, error) {
	c := &customs{s: s, dir: filepath.Join(dir, "custom"), jobs: map[string]*customJob{}, taken: map[int]bool{}}
	if err := durable.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("gitlab: records: %w", err)
	}
	list, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		name := filepath.Join(c.dir, e.Name())
		b, err := os.ReadFile(name)
		j := &customJob{}
		if err == nil {
			err = json.Unmarshal(b, j)
		}
		if _, bad := snapshot.ParseID(string(j.Attempt)); err != nil || bad != nil || filepath.Base(c.name(j)) != e.Name() {
			s.log.Error("a record of a job can't be read", "file", e.Name())
			os.Remove(name) //nolint:errcheck // its attempt is discarded when the agent names it
			continue
		}
		c.jobs[j.Job] = j
	}
	return c, nil
}

func (c *customs) name(j *customJob) string { return filepath.Join(c.dir, string(j.Attempt)+".json") }

// save makes a job's record durable and then true.
func (c *customs) save(j *customJob) error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(c.name(j), 0o600, writer(b)); err != nil {
		return fmt.Errorf("gitlab: record of job %s: %w", j.Job, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs[j.Job] = j
	return nil
}

func (c *customs) forget(j *customJob) {
	if err := os.Remove(c.name(j)); err != nil {
		c.s.log.Error("a record can't be removed", "job", j.Job, "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.jobs, j.Job)
}

// holds reports whether an attempt has a record here.
func (c *customs) holds(attempt snapshot.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range c.jobs {
		if j.Attempt == attempt {
			return true
		}
	}
	return false
}

// listen opens the socket, for root and ourselves.
func (c *customs) listen(ctx context.Context) (*http.Server, error) {
	path := c.s.socket
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("gitlab: custom executor: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close() //nolint:errcheck // the first error is the one to tell
		return nil, err
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(c.serve), ReadHeaderTimeout: 10 * time.Second, ErrorLog: c.s.std,
		BaseContext: func(net.Listener) context.Context { return c.s.life },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			uid, err := peer(conn)
			if err != nil {
				return ctx
			}
			return context.WithValue(ctx, peerKey{}, uid)
		},
	}
	c.s.work.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			c.s.log.Error("the custom executor's socket is closed", "error", err)
		}
	})
	return srv, nil
}

// peerKey finds the user behind a connection.
type peerKey struct{}

// allowed: root and ourselves. Not the jobs' user: with the token that each job is given anybody could
// ask for its workspace, or end it. Whose job it is the coordinator asks GitLab.
func allowed(ctx context.Context) bool {
	uid, ok := ctx.Value(peerKey{}).(uint32)
	return ok && (uid == 0 || uid == uint32(max(0, os.Geteuid())))
}

func (c *customs) serve(w http.ResponseWriter, r *http.Request) {
	if !allowed(r.Context()) {
		refuse(w, http.StatusForbidden, "only a runner that runs as root, or as the agent's user, may ask")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxPayload+maxPayload/2)
	var q custom.Request
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		refuse(w, http.StatusBadRequest, "the request is not JSON")
		return
	}
	info, body, err := readJob(q.Payload)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	var a *custom.Answer
	switch r.URL.Path {
	case custom.PathConfig:
		a = c.config(r.Context(), q, info, body)
	case custom.PathStage:
		a, err = c.stage(q, info)
	case custom.PathCleanup:
		a, err = c.cleanup(q, info)
	default:
		refuse(w, http.StatusNotFound, "no such call")
		return
	}
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(encode(a))
}
