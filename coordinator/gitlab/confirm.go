package gitlab

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// confirmTimeout bounds the question whose a job is: its runner waits for the answer.
const confirmTimeout = 5 * time.Second

var (
	// ErrNotConfirmed says that the server knows no such job, or another one. Asking again
	// does not help.
	ErrNotConfirmed = errors.New("GitLab does not confirm the job")
	// ErrNoWord says that the server gave no answer now.
	ErrNoWord = errors.New("GitLab does not say whether the job is what it seems to be")
)

// confirmed is what the server says of the job whose token asks.
type confirmed struct {
	ID       int64  `json:"id"`
	Name     string `json:"name"`
	Stage    string `json:"stage"`
	Status   string `json:"status"`
	Ref      string `json:"ref"`
	Tag      bool   `json:"tag"`
	WebURL   string `json:"web_url"`
	Pipeline struct {
		ID        int64  `json:"id"`
		ProjectID int64  `json:"project_id"`
		Ref       string `json:"ref"`
		SHA       string `json:"sha"`
	} `json:"pipeline"`
}

// Confirm asks the server at url, with the job's own token, which job that token is of, and
// gives j with what it says. It is for a payload that the server did not give us itself: whoever
// brought it may have made it up, also of parts of a true one. An error wraps ErrNotConfirmed
// or ErrNoWord.
//
// The server does not say whether the ref is protected, nor where a merge request comes from, and
// of the payload that is not believed: the zone is one of that ref alone.
func (s *Service) Confirm(ctx context.Context, url string, j *Job) (*Job, error) {
	c, err := s.client(url).whose(ctx, j.Token)
	if err != nil {
		return nil, err
	}
	if c.ID != j.ID {
		return nil, fmt.Errorf("%w: its token is that of another job", ErrNotConfirmed)
	}
	if what := c.differs(j); what != "" {
		return nil, fmt.Errorf("%w: it has another %s there", ErrNotConfirmed, what)
	}
	out := *j
	out.PipelineID, out.Zone = c.Pipeline.ID, c.zone()
	return &out, nil
}

// whose asks which job a token is of.
func (c *client) whose(ctx context.Context, token Secret) (*confirmed, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, "job", "JOB-TOKEN", string(token), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoWord, err)
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return nil, fmt.Errorf("%w: status %d", ErrNoWord, code)
	default: // 401 for a token that ended with its job
		return nil, fmt.Errorf("%w: status %d", ErrNotConfirmed, code)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxNeeds))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoWord, err)
	}
	out := &confirmed{}
	if err := json.Unmarshal(b, out); err != nil || out.ID <= 0 || out.Pipeline.ID <= 0 || out.Pipeline.ProjectID <= 0 || out.Ref == "" {
		return nil, fmt.Errorf("%w: its answer is none", ErrNotConfirmed)
	}
	return out, nil
}

// differs names what the server says otherwise than j.
func (c *confirmed) differs(j *Job) string {
	name := OneLine(c.Name, maxText)
	for _, f := range []struct {
		what string
		same bool
	}{
		{"project", c.Pipeline.ProjectID == j.ProjectID && c.path(j)},
		{"pipeline", c.Pipeline.ID == j.PipelineID || j.PipelineID < 0}, // an old server's payload does not say
		{"ref", OneLine(c.Ref, maxText) == j.Ref},
		{"commit", OneLine(c.Pipeline.SHA, 64) == j.SHA},
		{"name", name == j.JobName},
		{"stage", OneLine(c.Stage, maxText) == j.Stage},
		{"state", slices.Contains([]string{"pending", "running", "canceling"}, c.Status)},
	} {
		if !f.same {
			return f.what
		}
	}
	return ""
}

// path reports whether the job's page is below the project's path, if the server names one:
// a project is known by its id and shown by its path.
func (c *confirmed) path(j *Job) bool {
	u, err := url.Parse(c.WebURL)
	if err != nil || c.WebURL == "" || j.Path == "" || len(j.Path) >= maxPath-utf8.UTFMax { // the last: it may be cut
		return err == nil
	}
	return strings.HasSuffix(u.Path, "/"+j.Path+"/-/jobs/"+strconv.FormatInt(c.ID, 10))
}

// zoneRef begins the zones of jobs of which only the ref is sure.
const zoneRef = "ref-"

// zone is shared by the jobs of one ref and nobody else. A tag and a branch of one name differ.
func (c *confirmed) zone() string {
	kind := "branch"
	if c.Tag {
		kind = "tag"
	}
	sum := sha256.Sum256([]byte("roost zone\x00" + kind + "\x00" + c.Ref))
	return zoneRef + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))[:26]
}
