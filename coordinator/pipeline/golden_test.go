package pipeline_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/pipeline"
)

var update = flag.Bool("update", false, "write the golden files anew; read the difference before you commit it")

// TestGolden parses every file of testdata. A valid one has its graph beside it, as
// JSON; each has its problems, one a line. A file of valid may have warnings.
func TestGolden(t *testing.T) {
	for _, dir := range []string{"valid", "invalid"} {
		files, err := filepath.Glob(filepath.Join("testdata", dir, "*.yml"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			t.Run(dir+"/"+filepath.Base(file), func(t *testing.T) {
				text, err := os.ReadFile(file)
				require.NoError(t, err)
				g, problems := pipeline.Parse("ci.yml", text, pipeline.Options{})
				checkProblems(t, problems, len(text))
				base := strings.TrimSuffix(file, ".yml")
				golden(t, base+".problems", listing(problems))
				if dir == "invalid" {
					require.Nil(t, g)
					return
				}
				require.NotNil(t, g, "%s", listing(problems))
				checkGraph(t, g)
				golden(t, base+".json", render(t, g))
			})
		}
	}
}

// golden compares got with a file; an absent file is an empty one.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if got == "" {
			os.Remove(file)
			return
		}
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	require.Equal(t, string(want), got, "run with -update if this is what it should be")
}

func listing(problems []api.Problem) string {
	var b strings.Builder
	for _, p := range problems {
		kind := ""
		if p.Warning {
			kind = " warning:"
		}
		fmt.Fprintf(&b, "%d:%d:%s %s: %s\n", p.Line, p.Column, kind, p.Code, p.Text)
	}
	return b.String()
}

func render(t *testing.T, g *pipeline.Graph) string {
	t.Helper()
	b, err := json.MarshalIndent(g, "", " ")
	require.NoError(t, err)
	return string(b) + "\n"
}

// checkProblems holds what is promised of problems whatever the file.
func checkProblems(t *testing.T, problems []api.Problem, size int) {
	t.Helper()
	last := api.Problem{}
	for i, p := range problems {
		if p.Line < 1 || p.Column < 1 || p.Line > size+1 || p.Column > size+1 {
			t.Fatalf("place outside of the file: %+v", p)
		}
		if p.Code == "" || p.Text == "" || len(p.Text) > 4000 || strings.ContainsAny(p.Text, "\n\r\x00\x1b") {
			t.Fatalf("not fit to be shown: %+v", p)
		}
		if i > 0 && p.Code != pipeline.TooMany && (p.Line < last.Line || p.Line == last.Line && p.Column < last.Column) {
			t.Fatalf("not sorted: %+v before %+v", last, p)
		}
		last = p
	}
}

// checkGraph holds what is promised of a graph whatever the file.
func checkGraph(t *testing.T, g *pipeline.Graph) {
	t.Helper()
	index := make(map[string]int, len(g.Jobs))
	stage := make(map[string]int, len(g.Stages))
	for i, s := range g.Stages {
		stage[s] = i
	}
	require.Equal(t, ".pre", g.Stages[0])
	require.Equal(t, ".post", g.Stages[len(g.Stages)-1])
	for i, j := range g.Jobs {
		if _, twice := index[j.Spec.Name]; twice {
			t.Fatalf("two jobs are named %q", j.Spec.Name)
		}
		index[j.Spec.Name] = i
	}
	require.NotEmpty(t, g.Jobs)
	for _, j := range g.Jobs {
		name := j.Spec.Name
		_, ok := stage[j.Spec.Stage]
		require.True(t, ok, name)
		require.NotEmpty(t, j.Spec.Script, name)
		require.Contains(t, []string{pipeline.OnSuccess, pipeline.OnFailure, pipeline.Always}, j.When, name)
		require.Contains(t, []string{pipeline.ModeRequired, pipeline.ModeOptional}, j.Spec.Workspace.Mode, name)
		require.Contains(t, []string{pipeline.CommitOnSuccess, pipeline.CommitIfChanged, pipeline.CommitNever}, j.Spec.Workspace.Commit, name)
		require.Contains(t, []string{pipeline.ConflictError, pipeline.ConflictOrder}, j.Spec.Workspace.OnConflict, name)
		require.Equal(t, j.Spec.Total == 0, j.Spec.Name == j.Base, name)
		for _, w := range j.Waits {
			other, ok := index[w]
			require.True(t, ok, "%s waits for %s", name, w)
			require.LessOrEqual(t, stage[g.Jobs[other].Spec.Stage], stage[j.Spec.Stage], "%s waits for %s", name, w)
		}
		require.False(t, !j.HasNeeds && len(j.Needs) > 0, name)
		if j.HasNeeds {
			require.Len(t, j.Waits, len(j.Needs), name)
		}
	}
	checkOrder(t, g, index)
}

// checkOrder runs the graph on paper: everything can run, and whoever a job
// inherits from has ended, left files and is named once.
func checkOrder(t *testing.T, g *pipeline.Graph, index map[string]int) {
	t.Helper()
	ended := make(map[string]bool, len(g.Jobs))
	for len(ended) < len(g.Jobs) {
		var now []string
	jobs:
		for _, j := range g.Jobs {
			if ended[j.Spec.Name] {
				continue
			}
			for _, w := range j.Waits {
				if !ended[w] {
					continue jobs
				}
			}
			seen := make(map[string]bool)
			for _, p := range j.Parents {
				parent := g.Jobs[index[p]]
				if !ended[p] || seen[p] || parent.Spec.Workspace.Disabled || parent.Spec.Workspace.Commit == pipeline.CommitNever {
					t.Fatalf("%s can't inherit from %s", j.Spec.Name, p)
				}
				seen[p] = true
			}
			if j.Spec.Workspace.Disabled && len(j.Parents) > 0 {
				t.Fatalf("%s has no workspace and parents", j.Spec.Name)
			}
			for _, pr := range j.Spec.Workspace.Prefer {
				if !seen[pr.Job] {
					t.Fatalf("%s prefers %s, which is no parent", j.Spec.Name, pr.Job)
				}
			}
			now = append(now, j.Spec.Name)
		}
		if len(now) == 0 {
			t.Fatalf("nothing can start after %v", ended)
		}
		for _, n := range now {
			ended[n] = true
		}
	}
}

// fences returns what stands between "```yaml" and "```" in a page.
func fences(page string) []string {
	var out []string
	for {
		_, after, ok := strings.Cut(page, "```yaml\n")
		if !ok {
			return out
		}
		code, rest, _ := strings.Cut(after, "```\n")
		out = append(out, code)
		page = rest
	}
}
