package pipeline_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/pipeline"
)

// tooSlow is generous: the slowest of these takes a tenth of it on a slow machine.
// What it is to catch would take minutes, or all memory.
const tooSlow = 20 * time.Second

// TestBounds feeds files that expand to far more than they are.
func TestBounds(t *testing.T) {
	job := "a: {script: x}\n"
	many := func(n int, line func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(line(i))
		}
		return b.String()
	}
	cases := []struct {
		name, text string
		codes      []string // each must be there; none: the file is good
	}{
		{"too many bytes", job + strings.Repeat("#", 1<<20), []string{pipeline.YAMLSize}},
		{"as many bytes as may be", job + "#" + strings.Repeat(" ", 1<<20-len(job)-1), nil},
		{"too many values", job + ".b: [" + strings.Repeat("a,", 1<<18) + "]", []string{pipeline.YAMLSize}},
		{"laughs", ".l0: &l0 [x]\n" + many(40, func(i int) string {
			return fmt.Sprintf(".l%d: &l%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d,", i), 9), ","))
		}) + job, []string{pipeline.YAMLAlias}},
		{"merged laughs", ".l0: &l0 {x: y}\n" + many(40, func(i int) string {
			return fmt.Sprintf(".l%d: &l%d {%s}\n", i+1, i+1, fmt.Sprintf("<<: [*l%d, *l%d], k%d: *l%d", i, i, i, i))
		}) + job, []string{pipeline.YAMLAlias}},
		{"deep flow", job + ".b: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), []string{pipeline.YAMLDepth}},
		{"deeper flow than the decoder takes", job + ".b: " + strings.Repeat("[", 200000), []string{pipeline.YAMLSyntax}},
		{"deep block", job + ".b:\n" + strings.Repeat("- ", 5000) + "x\n", []string{pipeline.YAMLDepth}},
		{"deep by alias", ".l0: &l0 [x]\n" + many(80, func(i int) string {
			return fmt.Sprintf(".l%d: &l%d [*l%d]\n", i+1, i+1, i)
		}) + job, []string{pipeline.YAMLDepth}},
		{"alias in itself", "a: {script: &s [x, *s]}", []string{pipeline.YAMLAlias}},
		{"merge of itself", "a: &a {script: x, <<: *a}", []string{pipeline.YAMLAlias}},
		{"many jobs", many(2001, func(i int) string { return fmt.Sprintf("j%d: {script: x}\n", i) }), []string{pipeline.JobLimit}},
		{"many instances", many(11, func(i int) string { return fmt.Sprintf("j%d: {script: x, parallel: 200}\n", i) }), []string{pipeline.JobLimit}},
		{"as many jobs as may be", many(10, func(i int) string { return fmt.Sprintf("j%d: {script: x, parallel: 200}\n", i) }), nil},
		{"long script in each job", ".s: &s [" + many(20000, func(i int) string { return fmt.Sprintf("line%d,", i) }) + "]\n.t: {script: *s}\n" +
			many(2000, func(i int) string { return fmt.Sprintf("j%d: {extends: .t}\n", i) }), []string{pipeline.JobSize}},
		{"many variables in each job", ".t:\n  script: x\n  variables:\n" + many(20000, func(i int) string { return fmt.Sprintf("    V%d: x\n", i) }) +
			many(2000, func(i int) string { return fmt.Sprintf("j%d: {extends: .t, variables: {A: b}}\n", i) }), []string{pipeline.ExtendsSize}},
		{"shared variables in each job", ".t:\n  script: x\n  variables:\n" + many(20000, func(i int) string { return fmt.Sprintf("    V%d: x\n", i) }) +
			many(2000, func(i int) string { return fmt.Sprintf("j%d: {extends: .t}\n", i) }), []string{pipeline.JobSize}},
		{"all mistakes", many(20000, func(i int) string { return fmt.Sprintf("j%d: {scirpt: x}\n", i) }), []string{pipeline.TooMany, pipeline.KeyUnknown}},
		{"one mistake for all", ".t: {script: x, " + many(20000, func(i int) string { return fmt.Sprintf("k%d: x,", i) }) + "}\n" +
			many(2000, func(i int) string { return fmt.Sprintf("j%d: {extends: .t}\n", i) }), []string{pipeline.TooMany}},
		{"a chain of extends", ".j0: {script: x}\n" + many(20000, func(i int) string {
			return fmt.Sprintf(".j%d: {extends: .j%d}\n", i+1, i)
		}) + "a: {extends: .j20000}", []string{pipeline.ExtendsDepth}},
		{"everybody extends everybody", many(300, func(i int) string {
			return fmt.Sprintf(".j%d: {k%d: x, extends: [%s]}\n", i, i, many(i, func(k int) string { return fmt.Sprintf(".j%d,", k) }))
		}) + "a: {extends: .j299}", []string{pipeline.ExtendsSize}},
		{"a cycle of all jobs", many(2000, func(i int) string {
			return fmt.Sprintf("j%d: {script: x, needs: [j%d]}\n", i, (i+1)%2000)
		}), []string{pipeline.NeedCycle}},
		{"a chain of all jobs", "z: {script: x, needs: []}\nj0: {script: x, needs: [z]}\n" + many(1998, func(i int) string {
			return fmt.Sprintf("j%d: {script: x, needs: [j%d], workspace: {inherit: [z]}}\n", i+1, i)
		}), nil},
		{"passing on by all jobs", "stages: [a, b, c]\n" + many(5, func(i int) string {
			return fmt.Sprintf("a%d: {stage: a, script: x, parallel: 200}\n", i)
		}) + many(50, func(i int) string {
			return fmt.Sprintf("b%d: {stage: b, script: x, workspace: {commit: never, inherit: [a4,a%d]}}\n", i, i%4)
		}) + many(900, func(i int) string {
			return fmt.Sprintf("c%d: {stage: c, script: x, needs: [%s]}\n", i, many(50, func(k int) string { return fmt.Sprintf("b%d,", k) }))
		}), nil},
		{"many comments", job + strings.Repeat("# x\n", 200000), nil},
		{"many needs of nothing", many(1000, func(i int) string {
			return fmt.Sprintf("j%d: {script: x, needs: [%s]}\n", i, many(50, func(k int) string { return fmt.Sprintf("job%d-%d,", i, k) }))
		}), []string{pipeline.TooMany, pipeline.NeedUnknown}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			g, problems := pipeline.Parse("ci.yml", []byte(c.text), pipeline.Options{})
			took := time.Since(begin)
			t.Logf("%d bytes in %v", len(c.text), took.Round(time.Millisecond))
			require.Less(t, took, tooSlow)
			require.LessOrEqual(t, len(problems), 101)
			if len(c.codes) == 0 {
				require.Empty(t, listing(problems))
				checkGraph(t, g)
				return
			}
			require.Nil(t, g)
			var got []string
			for _, p := range problems {
				got = append(got, p.Code)
			}
			for _, code := range c.codes {
				require.Contains(t, got, code)
			}
		})
	}
}

func TestNeedLimit(t *testing.T) {
	text := func(n int) []byte {
		var b strings.Builder
		var names []string
		for i := range n {
			fmt.Fprintf(&b, "j%d: {stage: build, script: x}\n", i)
			names = append(names, fmt.Sprintf("j%d", i))
		}
		fmt.Fprintf(&b, "all: {script: x, needs: [%s]}\n", strings.Join(names, ", "))
		return []byte(b.String())
	}
	for _, c := range []struct {
		needs, limit int
		ok           bool
	}{
		{50, 0, true}, {51, 0, false}, {3, 3, true}, {4, 3, false}, {300, -1, true},
	} {
		g, problems := pipeline.Parse("ci.yml", text(c.needs), pipeline.Options{NeedLimit: c.limit})
		require.Equal(t, c.ok, g != nil, "%d needs of %d: %s", c.needs, c.limit, listing(problems))
		if !c.ok {
			require.Equal(t, pipeline.NeedOverLimit, problems[0].Code)
			require.Len(t, problems, 1)
		}
	}
}
