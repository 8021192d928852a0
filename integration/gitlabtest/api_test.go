package gitlabtest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is a server with a project and a runner's token, spoken to by hand.
type desk struct {
	*gitlabtest.GitLab
	t       *testing.T
	project *gitlabtest.Project
	runner  *gitlabtest.Runner
	clock   time.Time
}

func newDesk(t *testing.T, o gitlabtest.Options) *desk {
	t.Helper()
	testenv.Require(t, testenv.Git)
	d := &desk{t: t, clock: time.Unix(1_700_000_000, 0)}
	o.Now = func() time.Time { return d.clock }
	d.GitLab = gitlabtest.New(t, o)
	d.project = d.AddProject(t, "group/demo", map[string]string{"a": "1\n"})
	d.runner = d.AddRunner(gitlabtest.RunnerDef{})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return d
}

func (d *desk) run(jobs ...gitlabtest.JobDef) *gitlabtest.Pipeline {
	return d.project.Run(d.t, gitlabtest.PipelineDef{Jobs: jobs})
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (d *desk) call(method, path string, header map[string]string, body string) answer {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.URL()+"/api/v4/"+path, strings.NewReader(body))
	require.NoError(d.t, err)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		return answer{status: -1}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	return answer{resp.StatusCode, resp.Header, b}
}

type payload struct {
	ID           int64
	Token        string
	JobInfo      map[string]any `json:"job_info"`
	GitInfo      map[string]any `json:"git_info"`
	Dependencies []struct {
		ID            int64
		Name, Token   string
		ArtifactsFile *struct {
			Filename string
			Size     int64
		} `json:"artifacts_file"`
	}
	Variables []gitlabtest.Variable
	raw       map[string]any
}

// request is call 5 with these features, besides.
func (d *desk) request(more map[string]any, features ...string) (*payload, answer) {
	f := map[string]bool{}
	for _, n := range features {
		f[n] = true
	}
	body := map[string]any{"token": d.runner.Token(), "system_id": "s_1", "info": map[string]any{"features": f}}
	maps.Copy(body, more)
	b, err := json.Marshal(body)
	require.NoError(d.t, err)
	a := d.call("POST", "jobs/request", map[string]string{"RUNNER-TOKEN": d.runner.Token(), "Content-Type": "application/json"}, string(b))
	if a.status != http.StatusCreated {
		return nil, a
	}
	require.Equal(d.t, "application/json", a.header.Get("Content-Type"))
	p := new(payload)
	require.NoError(d.t, json.Unmarshal(a.body, p))
	require.NoError(d.t, json.Unmarshal(a.body, &p.raw))
	return p, a
}

func (d *desk) must(more map[string]any, features ...string) *payload {
	d.t.Helper()
	p, a := d.request(more, features...)
	require.Equal(d.t, http.StatusCreated, a.status, "%s", a.body)
	return p
}

func (d *desk) put(p *payload, state, log string) answer {
	body := fmt.Sprintf(`{"token":%q,"state":%q,"output":{"checksum":"crc32:%08x","bytesize":%d}}`, p.Token, state, crc32.ChecksumIEEE([]byte(log)), len(log))
	return d.call("PUT", fmt.Sprintf("jobs/%d", p.ID), map[string]string{"JOB-TOKEN": p.Token, "Content-Type": "application/json"}, body)
}

func (d *desk) patch(p *payload, start int, text string) answer {
	return d.call("PATCH", fmt.Sprintf("jobs/%d/trace", p.ID), map[string]string{
		"JOB-TOKEN": p.Token, "Content-Type": "text/plain", "Content-Range": fmt.Sprintf("%d-%d", start, start+len(text)-1),
	}, text)
}

func (d *desk) upload(p *payload, content string) answer {
	var b bytes.Buffer
	fmt.Fprintf(&b, "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"artifacts.zip\"\r\nContent-Type: application/octet-stream\r\n\r\n%s\r\n--x--\r\n", content)
	return d.call("POST", fmt.Sprintf("jobs/%d/artifacts?artifact_format=zip&artifact_type=archive", p.ID), map[string]string{
		"JOB-TOKEN": p.Token, "Content-Type": "multipart/form-data; boundary=x",
	}, b.String())
}
