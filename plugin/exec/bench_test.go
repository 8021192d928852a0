package exec

import (
	"io"
	"os"
	"testing"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/plugintest"
)

// BenchmarkRun is what a job costs besides its script.
func BenchmarkRun(b *testing.B) {
	for name, o := range map[string]Options{"self": {}, "root": {RootMode: true}} {
		b.Run(name, func(b *testing.B) {
			if o.RootMode && os.Geteuid() != 0 {
				b.Skip("needs root")
			}
			dir := b.TempDir()
			o.StateDir, o.RunDir = dir+"/state", dir+"/run"
			a, err := New(o)
			if err != nil {
				b.Fatal(err)
			}
			view := dir + "/view"
			if err := os.Mkdir(view, 0o755); err != nil { //nolint:gosec // as views are
				b.Fatal(err)
			}
			for b.Loop() {
				_, err := a.Run(b.Context(), plugin.Job{
					Attempt: plugintest.NewID(b), View: view, Path: view, Script: []string{":"},
				}, io.Discard)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOutput is how fast a job's output goes to its log.
func BenchmarkOutput(b *testing.B) {
	dir := b.TempDir()
	a, err := New(Options{StateDir: dir + "/state"})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(100 << 20)
	for b.Loop() {
		_, err := a.Run(b.Context(), plugin.Job{
			Attempt: plugintest.NewID(b), View: dir, Script: []string{"head -c 104857600 /dev/zero"},
		}, io.Discard)
		if err != nil {
			b.Fatal(err)
		}
	}
}
