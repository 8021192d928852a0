//go:build bench && linux

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// key says what was measured.
type key struct {
	Group string `json:"group"` // session, hand, native, gitlab
	FS    string `json:"fs"`
	Tree  string `json:"tree"`
	Way   string `json:"way"`
	Op    string `json:"op"`
}

func (k key) of(op string) key { k.Op = op; return k }

func (k key) String() string {
	return fmt.Sprintf("%s: %s, %s on %s, %s", k.Group, k.Way, k.Tree, k.FS, k.Op)
}

// series is all samples of one thing.
type series struct {
	key
	Samples []sample `json:"samples,omitempty"`
	Err     string   `json:"error,omitempty"` // why it has no figure
}

// recorder keeps what was measured, in the order in which it first was.
type recorder struct{ all []*series }

func (r *recorder) at(k key) *series {
	i := slices.IndexFunc(r.all, func(s *series) bool { return s.key == k })
	if i < 0 {
		r.all = append(r.all, &series{key: k})
		i = len(r.all) - 1
	}
	return r.all[i]
}

func (r *recorder) add(k key, s sample)      { at := r.at(k); at.Samples = append(at.Samples, s) }
func (r *recorder) failed(k key, err error)  { r.at(k).Err = err.Error() }
func (r *recorder) of(k key) []sample        { return r.at(k).Samples }
func (r *recorder) medianWall(k key) float64 { return median(walls(r.of(k))) }
func (r *recorder) has(k key) bool           { return r.at(k).Err == "" && len(r.of(k)) > 0 }
func walls(list []sample) []float64          { return each(list, func(s sample) float64 { return s.Wall }) }

func cpus(list []sample) []float64 { return each(list, func(s sample) float64 { return s.CPU }) }

func sizes(list []sample) []float64 {
	return each(list, func(s sample) float64 { return float64(s.Bytes) })
}

func each[T any](l []T, of func(T) float64) (v []float64) {
	for _, s := range l {
		v = append(v, of(s))
	}
	return v
}

// any says whether something of a group was measured.
func (r *recorder) any(group string) bool {
	return slices.ContainsFunc(r.all, func(s *series) bool { return s.Group == group })
}

// bench is one run.
type bench struct {
	t     *testing.T
	set   settings
	start time.Time
	about about
	roost string // the binary
	trees []*tree
	rec   recorder
}

// about says what was measured on what, so that a figure never stands alone.
type about struct {
	Commit string   `json:"commit"`
	Dirty  bool     `json:"dirty"`
	Start  string   `json:"start"`
	Go     string   `json:"go"`
	Kernel string   `json:"kernel"`
	CPU    string   `json:"cpu"`
	Cores  int      `json:"cores"`
	Memory string   `json:"memory"`
	Driver string   `json:"driver"`
	Nice   int      `json:"nice"` // of this process, beside the machine's other work
	Tools  []string `json:"tools"`
	Trees  []string `json:"trees"`
}

// report writes all that is known so far. It is done after each part, since a long
// run may be broken off.
func (b *bench) report() {
	b.t.Helper()
	if b.set.json != "" {
		out, err := json.MarshalIndent(struct {
			About  about     `json:"about"`
			Series []*series `json:"series"`
		}{b.about, b.rec.all}, "", " ")
		require.NoError(b.t, err)
		require.NoError(b.t, os.WriteFile(b.set.json, append(out, '\n'), 0o644))
	}
	if b.set.md != "" {
		require.NoError(b.t, os.WriteFile(b.set.md, b.markdown(), 0o644))
	}
}

// resume takes what an earlier run of the same commit measured.
func (b *bench) resume() {
	b.t.Helper()
	if b.set.resume == "" {
		return
	}
	text, err := os.ReadFile(b.set.resume)
	require.NoError(b.t, err)
	var before struct {
		About  about     `json:"about"`
		Series []*series `json:"series"`
	}
	require.NoError(b.t, json.Unmarshal(text, &before))
	require.Equal(b.t, before.About.Commit, b.about.Commit, "BENCH_RESUME is of another commit")
	b.rec.all, b.about.Start = before.Series, before.About.Start
}

// publish puts the tables between the marks of the document.
func (b *bench) publish() {
	b.t.Helper()
	const begin, end = "<!-- bench: begin; written by make bench -->", "<!-- bench: end -->"
	if b.set.doc == "" {
		return
	}
	old, err := os.ReadFile(b.set.doc)
	require.NoError(b.t, err)
	head, rest, ok1 := cut(string(old), begin)
	_, tail, ok2 := cut(rest, end)
	require.True(b.t, ok1 && ok2, "%s has no marks %q and %q", filepath.Base(b.set.doc), begin, end)
	text := head + begin + "\n\n" + string(b.markdown()) + "\n" + end + tail
	require.NoError(b.t, os.WriteFile(b.set.doc, []byte(text), 0o644))
}
