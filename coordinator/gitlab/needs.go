package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	// askTimeout bounds the question what a job needs: it waits for the answer.
	askTimeout = 4 * time.Second
	maxNeeds   = 1 << 20
)

// needsQuery asks for the one thing that neither a payload nor the REST interface
// says. schedulingType is dag if the job has the keyword needs, and stage else.
const needsQuery = `query($path: ID!, $job: JobID!) { project(fullPath: $path) { job(id: $job) { schedulingType needs(first: 100) { nodes { name } } } } }`

// needsAnswer is what needsQuery brings. Project and Job are null where the token may not
// see them.
type needsAnswer struct {
	Data struct {
		Project *struct {
			Job *struct {
				SchedulingType string `json:"schedulingType"`
				Needs          struct {
					Nodes []struct {
						Name string `json:"name"`
					} `json:"nodes"`
				} `json:"needs"`
			} `json:"job"`
		} `json:"project"`
	} `json:"data"`
}

// errNoAnswer says that GitLab did not say what a job needs.
var errNoAnswer = errors.New("GitLab does not say what the job needs")

// needs asks which jobs a job needs by name. dag is false if it has no such keyword.
func (c *client) needs(ctx context.Context, token Secret, project string, job int64) (names []string, dag bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"query":     needsQuery,
		"variables": map[string]string{"path": project, "job": "gid://gitlab/Ci::Build/" + strconv.FormatInt(job, 10)},
	})
	if err != nil {
		return nil, false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/api/graphql", bytes.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Authorization", "Bearer "+string(token))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", c.agent)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		drain(resp)
		return nil, false, fmt.Errorf("%w: status %d", errNoAnswer, resp.StatusCode)
	}
	var out needsAnswer
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxNeeds)).Decode(&out); err != nil {
		return nil, false, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if out.Data.Project == nil || out.Data.Project.Job == nil {
		return nil, false, fmt.Errorf("%w: the token may not read it", errNoAnswer)
	}
	j := out.Data.Project.Job
	for _, n := range j.Needs.Nodes {
		names = append(names, OneLine(n.Name, maxText))
	}
	return names, j.SchedulingType == "dag", nil
}

// askNeeds finds out what the job needs, once. Without an answer it goes by what its
// payload says.
func (k *keeper) askNeeds(ctx context.Context) error {
	names, dag, err := k.c.needs(ctx, k.job.APIToken, k.job.Path, k.job.Job)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		k.s.o.Log.Warn("GitLab was asked in vain what a job needs", "job", k.job.Job, "error", err)
	}
	k.job.APIToken = ""
	return k.s.o.Board.Needs(ctx, k.id, names, dag && err == nil)
}
