package pipeline_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/roost-ci/roost/coordinator/pipeline"
)

// BenchmarkParse reads a file of usual size, and one of as many jobs as may be,
// which all wait for half of the others.
func BenchmarkParse(b *testing.B) {
	usual, err := os.ReadFile("testdata/valid/stages.yml")
	if err != nil {
		b.Fatal(err)
	}
	var large strings.Builder
	large.WriteString(".t: {script: [./build, ./test], variables: {A: b}}\n")
	for i := range 2000 {
		fmt.Fprintf(&large, "job-%d: {extends: .t, stage: %s}\n", i, []string{"build", "test"}[i%2])
	}
	for _, c := range []struct {
		name string
		text []byte
	}{{"usual", usual}, {"large", []byte(large.String())}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.text)))
			b.ReportAllocs()
			for b.Loop() {
				if g, problems := pipeline.Parse("ci.yml", c.text, pipeline.Options{}); g == nil {
					b.Fatal(listing(problems))
				}
			}
		})
	}
}
