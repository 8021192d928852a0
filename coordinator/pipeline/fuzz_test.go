package pipeline_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/pipeline"
)

// FuzzParse holds that Parse never panics, that it says the same of the same text,
// that a nil graph has an error to tell why, and that a graph is sound.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*", "*.yml"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no corpus: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{
		"a: &a [*a]", "a: &a {<<: *a}", "<<: {a: {script: x}}", "a: {script: x, parallel: 200, needs: [a 1/200]}",
		"? |\n  a\n: {script: x}", "\xef\xbb\xbfa: {script: x}", "\xff\xfea\x00", "a: {script: |-\n x}", "%YAML 1.1\n---\na: {script: x}",
		"a: {script: x, timeout: 1h2m3s and 4d, 5w}", "a:\r\n  script: x\r\n", "a: !!binary aGk=", "a: !<tag:yaml.org,2002:str> x",
		".a: &x {script: x}\nb: *x\n*x : y", "a: {extends: a}", "a: {script: x, workspace: {inherit: [a], prefer: {a: a}}}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		g, problems := pipeline.Parse("ci.yml", text, pipeline.Options{})
		checkProblems(t, problems, len(text))
		if g == nil {
			if !hasError(problems) {
				t.Fatal("neither a graph nor an error")
			}
			return
		}
		if hasError(problems) {
			t.Fatal("a graph in spite of an error")
		}
		checkGraph(t, g)
		again, _ := pipeline.Parse("ci.yml", bytes.Clone(text), pipeline.Options{})
		if a, b := render(t, g), render(t, again); a != b {
			t.Fatalf("two graphs of one text:\n%s\n%s", a, b)
		}
	})
}

func hasError(problems []api.Problem) bool {
	for _, p := range problems {
		if !p.Warning {
			return true
		}
	}
	return false
}
