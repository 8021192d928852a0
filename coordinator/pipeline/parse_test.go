package pipeline_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/pipeline"
)

// parse is for files that must be good but for warnings.
func parse(t *testing.T, text string, o pipeline.Options) *pipeline.Graph {
	t.Helper()
	g, problems := pipeline.Parse("ci.yml", []byte(text), o)
	require.NotNil(t, g, "%s\n%s", text, listing(problems))
	return g
}

func TestTimeout(t *testing.T) {
	cases := []struct {
		text string
		want time.Duration // 0: an error
	}{
		{"1h 30m", 90 * time.Minute},
		{"1h30m", 90 * time.Minute},
		{"90 seconds", 90 * time.Second},
		{"2 hours", 2 * time.Hour},
		{"1 hour and 10 minutes", 70 * time.Minute},
		{"3 hours, 5 mins and 10 secs", 3*time.Hour + 5*time.Minute + 10*time.Second},
		{"1.5h", 90 * time.Minute},
		{"  2 Days ", 48 * time.Hour},
		{"1w 2d", 9 * 24 * time.Hour},
		{"1 month", 30 * 24 * time.Hour},
		{"0.001s", time.Millisecond},
		{"31 days", 0},
		{"0 minutes", 0},
		{"0.0001s", 0},
		{"1 month 1s", 0},
		{"90", 0},
		{"1h 30", 0},
		{"minutes", 0},
		{"-5m", 0},
		{"1h and", 0},
		{"and 1h", 0},
		{"1:30:00", 0},
		{"1h; rm", 0},
		{"999999999999 s", 0},
		{"5 parsecs", 0},
	}
	for _, c := range cases {
		g, problems := pipeline.Parse("ci.yml", []byte("a: {script: x, timeout: \""+c.text+"\"}"), pipeline.Options{})
		if c.want == 0 {
			require.Nil(t, g, c.text)
			require.Len(t, problems, 1, c.text)
			require.Equal(t, pipeline.ValueInvalid, problems[0].Code, c.text)
			continue
		}
		require.NotNil(t, g, "%s: %s", c.text, listing(problems))
		require.Equal(t, c.want.Milliseconds(), g.Jobs[0].Spec.TimeoutMS, c.text)
	}
}

// TestRequestVariables: those of the request win over the job's, the job's over
// those of the top level; and maps that jobs share are not written to.
func TestRequestVariables(t *testing.T) {
	text := `
variables: {A: top, B: top, C: top, GIT_STRATEGY: fetch}
one: {script: x, variables: {B: job, C: job}}
two: {script: x}
`
	g := parse(t, text, pipeline.Options{Variables: map[string]string{"C": "request", "D": "request", "GIT_STRATEGY": "none"}})
	require.Equal(t, map[string]string{"A": "top", "B": "job", "C": "request", "D": "request", "GIT_STRATEGY": "none"}, jobNamed(g, "one").Spec.Variables)
	require.Equal(t, map[string]string{"A": "top", "B": "top", "C": "request", "D": "request", "GIT_STRATEGY": "none"}, jobNamed(g, "two").Spec.Variables)
	require.False(t, jobNamed(g, "one").Source)
	require.Nil(t, jobNamed(g, "three"))

	_, problems := pipeline.Parse("ci.yml", []byte(text), pipeline.Options{Variables: map[string]string{"A=B": "x", "N": "\x00"}})
	require.Len(t, problems, 2)
	require.Equal(t, pipeline.ValueInvalid, problems[0].Code)
	require.Equal(t, pipeline.VariableName, problems[1].Code)
}

// TestSharedFile: the same text with other line ends and a byte order mark is the
// same pipeline.
func TestSharedFile(t *testing.T) {
	for _, text := range []string{
		"a:\n  script: x\nb:\n  script: y\n",
		"a:\r\n  script: x\r\nb:\r\n  script: y\r\n",
		"\xef\xbb\xbfa:\n  script: x\nb:\n  script: y",
		"%YAML 1.1\n---\na:\n  script: x\nb: {script: y}\n...\n",
	} {
		g := parse(t, text, pipeline.Options{})
		require.Len(t, g.Jobs, 2, "%q", text)
		require.Equal(t, "x", g.Jobs[0].Spec.Script[0], "%q", text)
	}
}

// TestAllAtOnce: a mistake in one part of a file does not hide one in another, and
// an entry that could not become a job is not reported as absent too.
func TestAllAtOnce(t *testing.T) {
	_, problems := pipeline.Parse("ci.yml", []byte(`
stages: [build, test]
one: {stage: build, script: x, tags: 7}
two: {stage: test, script: x, needs: [one, three], workspace: {inherit: [four]}}
three: word
five: {stage: test, script: x, workspace: {inherit: [five]}}
`), pipeline.Options{})
	require.Equal(t, `3:38: VALUE_TYPE: one job: tags must be a list of strings, not the number 7
4:74: INHERIT_UNKNOWN: two job: inherits from unknown job "four"
5:1: JOB_FORM: three job: must be a mapping with a script, not "word"
`, listing(problems))

	// Without the broken job the rest of the questions have an answer.
	_, problems = pipeline.Parse("ci.yml", []byte(`
stages: [build, test]
one: {stage: build, script: x, tags: 7}
five: {stage: test, script: x, workspace: {inherit: [five], prefer: {a: one}}}
`), pipeline.Options{})
	require.Equal(t, `3:38: VALUE_TYPE: one job: tags must be a list of strings, not the number 7
4:54: INHERIT_WAIT: five job: inherits from five, which it does not wait for; add it to needs
4:73: PREFER_UNKNOWN: five job: prefers one, from which it inherits nothing
`, listing(problems))
}

// TestSyntaxErrorLine: the line is the one where the mistake is, and not, as the
// decoder has it, the one where the block around it began.
func TestSyntaxErrorLine(t *testing.T) {
	cases := []struct {
		text      string
		line, col int
		cure      string
	}{
		{"a: {script: x}\nb: c: d\n", 2, 1, `": "`},
		{"a:\n  script:\n    - x\n    y: z\n", 4, 5, "list"},
		{"a:\n  script: [x\nb: {script: y}\n", 3, 1, "bracket"},
		{"a:\n\tscript: x\n", 2, 1, "tabs"},
		{"a: {script: *x}\n", 1, 1, "&"},
		{"a:\n  script: @x\n", 2, 3, "quote"},
		{"a:\n  script: x\n stage: y\n", 3, 2, "indentation"},
		{"a: {script: x}\nb: \xff\n", 2, 1, "UTF-8"},
		{"a: \x01", 1, 1, "control"},
		{"a: {script: \"x}\n", 1, 1, "quote"},
	}
	for _, c := range cases {
		g, problems := pipeline.Parse("ci.yml", []byte(c.text), pipeline.Options{})
		require.Nil(t, g, "%q", c.text)
		require.Len(t, problems, 1, "%q", c.text)
		p := problems[0]
		require.Equal(t, pipeline.YAMLSyntax, p.Code, "%q: %s", c.text, p.Text)
		require.Equal(t, []int{c.line, c.col}, []int{p.Line, p.Column}, "%q: %s", c.text, p.Text)
		require.Contains(t, p.Text, c.cure, "%q", c.text)
	}
}

func TestAllowFailure(t *testing.T) {
	require.True(t, pipeline.AllowFailure{Any: true}.Allows(1))
	require.False(t, pipeline.AllowFailure{}.Allows(1))
	a := pipeline.AllowFailure{Codes: []int{2, 137}}
	require.True(t, a.Allows(137))
	require.False(t, a.Allows(1))
}

// TestDocumentation parses every example of the reference, so that none is wrong.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "pipeline.md"))
	require.NoError(t, err)
	examples := fences(string(text))
	require.Greater(t, len(examples), 10)
	for _, e := range examples {
		g, problems := pipeline.Parse("pipeline.md", []byte(e), pipeline.Options{})
		require.NotNil(t, g, "%s\n%s", e, listing(problems))
		require.Empty(t, problems, "%s\n%s", e, listing(problems))
		checkGraph(t, g)
	}
}

// jobNamed returns the job of that name, or nil.
func jobNamed(g *pipeline.Graph, name string) *pipeline.Job {
	for i := range g.Jobs {
		if g.Jobs[i].Spec.Name == name {
			return &g.Jobs[i]
		}
	}
	return nil
}
