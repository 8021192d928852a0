package coordinator

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
)

// Jobs whose source is a directory on this machine fetch it over git's smart HTTP
// protocol, reading only, each with the token of its attempt and only the
// directory of its own pipeline. Nothing of the request becomes part of a command
// line.

// maxWants bounds what a fetch asks for.
const maxWants = 64 << 20

// gitProtocol is what a client may say in Git-Protocol.
var gitProtocol = regexp.MustCompile(`^[a-z0-9=:.-]{1,64}$`)

// sourceDir finds the directory that a call may fetch from.
func (c *call) sourceDir() (string, error) {
	id, err := c.id("attempt")
	if err != nil {
		return "", err
	}
	if id != c.who.attempt {
		return "", &api.Error{HTTP: 403, Code: api.CodeForbidden, Text: "this token is for another attempt"}
	}
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	a := c.s.world.attempts[id]
	if a == nil || a.Stage == state.AttemptEnded {
		return "", fenced(id, "it has ended")
	}
	p := c.s.world.pipelines[c.s.world.jobs[a.Job].Pipeline]
	if p == nil || p.Source == nil || p.Source.Dir == "" {
		return "", &api.Error{HTTP: 404, Code: api.CodeNotFound, Text: "this pipeline has no source here"}
	}
	return p.Source.Dir, nil
}

// gitRefs answers GET info/refs?service=git-upload-pack.
func (c *call) gitRefs() error {
	dir, err := c.sourceDir()
	if err != nil {
		return err
	}
	if c.args["rest"] != "info/refs" || c.r.URL.Query().Get("service") != "git-upload-pack" {
		return &api.Error{HTTP: 403, Code: api.CodeForbidden, Text: "only fetching is served here"}
	}
	var out, why bytes.Buffer
	cmd := c.gitCommand(c.r.Context(), "upload-pack", "--stateless-rpc", "--advertise-refs", dir)
	cmd.Stdout, cmd.Stderr = &out, &why
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("git upload-pack %s: %w: %.500s", dir, err, why.String())
	}
	c.w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
	c.w.WriteHeader(200)
	if !strings.Contains(c.r.Header.Get("Git-Protocol"), "version=2") {
		io.WriteString(c.w, "001e# service=git-upload-pack\n0000") //nolint:errcheck // the next write tells
	}
	if _, err := c.w.Write(out.Bytes()); err != nil {
		c.s.log.Debug("git answer", "error", err)
	}
	return nil
}

// gitPack answers POST git-upload-pack.
func (c *call) gitPack() error {
	dir, err := c.sourceDir()
	if err != nil {
		return err
	}
	if c.args["rest"] != "git-upload-pack" {
		return &api.Error{HTTP: 403, Code: api.CodeForbidden, Text: "only fetching is served here"}
	}
	var body io.Reader = http.MaxBytesReader(c.w, c.r.Body, maxWants)
	if c.r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			return invalid("body: %v", err)
		}
		body = io.LimitReader(z, maxWants)
	}
	var why bytes.Buffer
	cmd := c.gitCommand(c.r.Context(), "upload-pack", "--stateless-rpc", dir)
	cmd.Stdin, cmd.Stderr = body, &why
	cmd.Stdout = &started{w: c.w}
	if err := cmd.Run(); err != nil {
		c.s.log.Warn("git upload-pack", "dir", dir, "error", err, "stderr", fmt.Sprintf("%.500s", why.String()))
		if !cmd.Stdout.(*started).yes {
			return &api.Error{HTTP: 500, Code: api.CodeInternal, Text: "git upload-pack ended early; the coordinator's log says why"}
		}
		// Half an answer is out: cutting the connection is the only way left to say
		// that it is not all.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// started is the answer of upload-pack, whose header goes out with its first byte.
type started struct {
	w   http.ResponseWriter
	yes bool
}

func (s *started) Write(p []byte) (int, error) {
	if !s.yes {
		s.yes = true
		s.w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		s.w.WriteHeader(200)
	}
	return s.w.Write(p)
}

// gitCommand makes a git that reads no configuration but the repository's, asks
// nobody anything, and serves a commit by its name even if no branch has it.
func (c *call) gitCommand(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{
		"-c", "safe.directory=*", "-c", "uploadpack.allowAnySHA1InWant=true",
		"-c", "uploadpack.allowFilter=true", "-c", "core.hooksPath=" + os.DevNull,
	}, args...)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_TERMINAL_PROMPT=0",
	}
	if v := c.r.Header.Get("Git-Protocol"); gitProtocol.MatchString(v) {
		cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+v)
	}
	return cmd
}
