package custom

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/roost-ci/roost/internal/slots"
)

// Client is one call of the runner. Its fields are those of the process.
type Client struct {
	Socket string
	// Slot is the slot to use, 0 for any.
	Slot    int
	Version string
	Env     []string // os.Environ()
	// Shell, if set, makes the command that runs a stage's script; default: bash.
	Shell          func(ctx context.Context, script string) (*exec.Cmd, error)
	Stdout, Stderr io.Writer
}

// ExitError is an exit status to end with: what the runner expects for the kind of failure.
// What there was to say has been said.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return "exit status " + strconv.Itoa(e.Code) }

// configured is what config_exec prints.
type configured struct {
	Driver struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"driver"`
	BuildsDir string            `json:"builds_dir,omitempty"`
	Shared    bool              `json:"builds_dir_is_shared"`
	JobEnv    map[string]string `json:"job_env,omitempty"`
}

// Config is config_exec: it asks for a workspace and prints where the runner is to work. Without
// one the runner works in its own builds_dir.
func (c *Client) Config(ctx context.Context) error {
	a, err := c.call(ctx, PathConfig, Request{Slot: c.Slot}, time.Hour)
	if err != nil {
		a = &Answer{Reason: err.Error()}
	}
	if a.State == "" && (a.Refused || c.required()) {
		fmt.Fprintf(c.Stderr, "roost: the job needs its workspace and can't have it: %s\n", a.Reason)
		return c.systemFailure()
	}
	if a.State == "" {
		fmt.Fprintf(c.Stderr, "roost: NO WORKSPACE, the job starts as on any runner: %s\n", a.Reason)
	}
	var out configured
	out.Driver.Name, out.Driver.Version = "roost", c.Version
	out.BuildsDir, out.JobEnv = a.View, a.Env
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Stdout, "%s\n", b)
	return err
}

// Prepare is prepare_exec: its output is in the job's log.
func (c *Client) Prepare(ctx context.Context) error {
	a, err := c.call(ctx, PathStage, Request{Stage: "prepare"}, time.Minute)
	if err != nil {
		return nil //nolint:nilerr // the job runs without a workspace, and config said so
	}
	for _, l := range a.Lines {
		fmt.Fprintln(c.Stdout, l)
	}
	return nil
}

// Cleanup is cleanup_exec: the job is over, its workspace is kept or not.
func (c *Client) Cleanup(ctx context.Context) error {
	a, err := c.call(ctx, PathStage, Request{Stage: "cleanup"}, time.Minute)
	if err == nil && a.View != "" {
		payload, err := c.payload()
		if err == nil {
			err = Scrub(a.View, payload)
		}
		if err != nil {
			fmt.Fprintf(c.Stderr, "roost: %v\n", err) // the plugin looks, and keeps nothing then
		}
	}
	a, err = c.call(ctx, PathCleanup, Request{}, time.Hour)
	if err != nil {
		fmt.Fprintf(c.Stderr, "roost: the workspace is not kept: %v\n", err)
		return nil //nolint:nilerr // the runner does not look at it
	}
	for _, l := range a.Lines {
		fmt.Fprintln(c.Stdout, l)
	}
	return nil
}

// Scrub removes what the runner keeps beside the project's directory, which is in the
// workspace here: settings of git with the job's token, and files with secrets. The job could have
// put anything there, a link in the place of the view too: nothing is followed out of its slot.
// A job without a view has nothing to remove.
func Scrub(view string, payload []byte) error {
	if view == "" {
		return nil
	}
	rel, err := ProjectPath(payload)
	if err != nil {
		return err
	}
	root, err := slots.OpenView(view)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // only read from
	if err := root.RemoveAll(rel + ".tmp"); err != nil {
		return err
	}
	if _, err := root.Lstat(rel + ".tmp"); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s.tmp is still there", rel)
	}
	return nil
}

// ProjectPath is where a job's project lies below its builds directory: by the address of its
// repository, which no variable of the job changes.
func ProjectPath(payload []byte) (string, error) {
	var job struct {
		Git struct {
			URL string `json:"repo_url"`
		} `json:"git_info"`
	}
	if json.Unmarshal(payload, &job) != nil {
		return "", errors.New("the job is not JSON")
	}
	u, err := url.Parse(job.Git.URL)
	if err != nil || u.Host == "" {
		return "", errors.New("the job names no repository") // its text holds a token
	}
	rel := strings.TrimPrefix(path.Clean(strings.TrimSuffix(u.Path, ".git")), "/")
	if rel == "." || rel == "" || strings.Contains(rel, "..") || !filepath.IsLocal(rel) {
		return "", errors.New("the job's repository has no path")
	}
	return rel, nil
}

// call asks the plugin.
func (c *Client) call(ctx context.Context, path string, q Request, limit time.Duration) (*Answer, error) {
	var err error
	if q.Payload, err = c.payload(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	h := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", c.Socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://roost"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := h.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the agent's plugin can't be reached: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		var m struct{ Message string }
		if json.Unmarshal(b, &m) != nil || m.Message == "" {
			m.Message = resp.Status
		}
		return nil, errors.New(m.Message)
	}
	a := &Answer{}
	return a, json.Unmarshal(b, a)
}

// payload is the job, as the runner has it. Variables of the job can't change which file that is.
func (c *Client) payload() ([]byte, error) {
	name := c.env("JOB_RESPONSE_FILE")
	if name == "" {
		return nil, errors.New("JOB_RESPONSE_FILE is not set: this is called by GitLab Runner's custom executor (14.1 or later)")
	}
	return os.ReadFile(name)
}

// env is the last value of a variable, as a process sees it.
func (c *Client) env(key string) string {
	value := ""
	for _, kv := range c.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k == key {
			value = v
		}
	}
	return value
}

// required reports whether the job can't do without a workspace.
func (c *Client) required() bool { return c.env("CUSTOM_ENV_ROOST_WORKSPACE") == "required" }

func (c *Client) systemFailure() error { return &ExitError{c.code("SYSTEM_FAILURE_EXIT_CODE", 2)} }

func (c *Client) code(key string, otherwise int) int {
	if n, err := strconv.Atoi(c.env(key)); err == nil && n > 0 && n < 256 {
		return n
	}
	return otherwise
}
