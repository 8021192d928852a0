//go:build bench && linux

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/treecheck"
)

// tree is what is saved and restored: a job's workspace, and the same one after
// the next pipeline's job.
type tree struct {
	name   string
	v0, v1 string                   // directories
	saw    map[bool]*treecheck.Tree // v1, by whether times are in seconds
	files  int
	bytes  int64
	What   string // how it was made
	// Changed is the content of the files that differ between v0 and v1, as far as
	// it differs: what an ideal increment would store before compression.
	Changed int64
	Touched int // number of such files
	gib     int // size of a disk that has room for a session
}

// apply makes src, which is v0, into v1, as compilers and package managers do: with
// new files in place of old ones; or as a cooker does.
func (tr *tree) apply(t *testing.T, src string) {
	t.Helper()
	if tr.name == "game" {
		changeGame(t, src)
		return
	}
	must(t, `rsync -a --delete "$V1"/ "$SRC"/`, "V1="+tr.v1, "SRC="+src)
}

// makers fill dir/v0 and dir/v1.
var makers = map[string]func(t *testing.T, set settings, dir string) *tree{
	"go": makeGo, "node": makeNode, "game": makeGame,
}

// makeTree makes a tree and looks at it.
func makeTree(t *testing.T, set settings, name string) *tree {
	t.Helper()
	require.Contains(t, makers, name, "BENCH_TREES")
	dir := filepath.Join(set.trunk, fmt.Sprintf("%s-%g", name, set.scale))
	tr := &tree{}
	if b, err := os.ReadFile(dir + "/made.json"); err == nil {
		require.NoError(t, json.Unmarshal(b, tr))
	} else {
		require.NoError(t, os.Mkdir(dir, 0o755))
		tr = makers[name](t, set, dir)
		if tr.Changed == 0 {
			tr.Changed, tr.Touched = changedBytes(t, dir+"/v0", dir+"/v1")
		}
		tr.What += ", at commit " + output("git rev-parse --short HEAD")
		made, err := json.Marshal(tr)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dir+"/made.json", made, 0o644))
	}
	tr.name, tr.v0, tr.v1 = name, filepath.Join(dir, "v0"), filepath.Join(dir, "v1")
	tr.saw = map[bool]*treecheck.Tree{}
	for _, seconds := range []bool{false, true} {
		if !set.wants("session") {
			break // nothing is compared
		}
		saw, err := treecheck.Options{Seconds: seconds}.Read(tr.v1)
		require.NoError(t, err)
		tr.saw[seconds] = saw
	}
	tr.files, tr.bytes = sizeOf(t, tr.v1)
	tr.gib = 3 + int(8*tr.bytes>>30)
	logf("tree %s: %d files, %.0f MB; %d files changed, %.1f MB", name, tr.files, mb(tr.bytes), tr.Touched, mb(tr.Changed))
	return tr
}

// makeGo is this repository with its modules and its build cache in it, after a
// build and after the build of a later change.
func makeGo(t *testing.T, set settings, dir string) *tree {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	build := "./..."
	if set.quick {
		build = "./snapshot/tree ./snapshot/pack"
	}
	// Go remembers the directory: both builds run at the path where jobs would see it.
	env := goEnv(set, "ROOT="+root, "V0="+dir+"/v0", "V1="+dir+"/v1", "BUILD="+build, "MODULES="+goVar(t, "GOMODCACHE"), "PROXY="+goVar(t, "GOPROXY"))
	must(t, `mkdir "$V0"; git clone -q --no-hardlinks "$ROOT" "$V0/src"`, env...)
	underPath(t, set, dir+"/v0", func() {
		must(t, `cd "$AT/src"; GOPROXY="file://$MODULES/cache/download,$PROXY" go build $BUILD; git status >/dev/null`, env...)
	})
	must(t, `cp -a "$V0" "$V1"`, env...)
	underPath(t, set, dir+"/v1", func() {
		must(t, `cd "$AT/src"; for f in snapshot/tree/diff.go snapshot/pack/codec.go; do
			printf '\n// Changed says what the next pipeline changed.\nconst Changed%s = "%s"\n' "$(basename $f .go)" "$f" >> "$f"; done
			go build $BUILD; git status >/dev/null`, env...)
	})
	return &tree{What: "this repository, its modules and its build cache, after `go build " + build + "`; then two files changed and built again"}
}

// goEnv is for building inside the tree, wherever it is shown.
func goEnv(set settings, more ...string) []string {
	at := filepath.Join(set.trunk, "at")
	return append([]string{
		"AT=" + at, "GOMODCACHE=" + at + "/mod", "GOCACHE=" + at + "/cache", "GOFLAGS=-modcacherw -buildvcs=false",
		"GOTOOLCHAIN=local", "CGO_ENABLED=0", "GOPROXY=off",
	}, more...)
}

func goVar(t *testing.T, name string) string {
	out, err := exec.Command("go", "env", name).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// underPath shows dir at the path of goEnv while fn runs.
func underPath(t *testing.T, set settings, dir string, fn func()) {
	t.Helper()
	at := filepath.Join(set.trunk, "at")
	must(t, `mkdir -p "$AT"; mount --bind "$WHAT" "$AT"`, "AT="+at, "WHAT="+dir)
	defer must(t, `umount "$AT"`, "AT="+at)
	fn()
}

// makeNode is what npm makes of the committed package.json; then one package is
// another version.
func makeNode(t *testing.T, set settings, dir string) *tree {
	from, err := filepath.Abs("node")
	require.NoError(t, err)
	env := []string{"FROM=" + from, "V0=" + dir + "/v0", "V1=" + dir + "/v1"}
	const npm = `npm --ignore-scripts --no-audit --no-fund --loglevel=error`
	script := `mkdir "$V0"; cp "$FROM"/package*.json "$V0"/; cd "$V0"; ` + npm + ` ci; cp -a "$V0" "$V1"; cd "$V1"; ` + npm + ` install --no-save rxjs@7.5.7`
	if _, err := sh(context.WithoutCancel(t.Context()), script, env); err != nil {
		logf("npm: %v: a generated tree instead", err)
		must(t, `mkdir -p "$V0"; find "$V0" -mindepth 1 -delete; rm -rf "$V1"`, env...)
		makePackages(t, dir+"/v0", set.scale)
		must(t, `cp -a "$V0" "$V1"; for d in "$V1"/@scope-3/*; do for f in "$d"/*/*.js; do echo changed >> "$f"; done; done`, env...)
		return &tree{What: "GENERATED, npm could not be reached: packages of 22 small files; then those of one scope changed"}
	}
	if set.quick {
		must(t, `for v in "$V0" "$V1"; do cd "$v/node_modules"; ls -d [a-q]* @* | xargs rm -r; done`, env...)
	}
	return &tree{What: "what npm installs for a front end's usual dependencies; then another version of one package"}
}

// sizeOf counts regular files and their bytes.
func sizeOf(t *testing.T, dir string) (files int, bytes int64) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		files++
		bytes += st.Size()
		return err
	}))
	return files, bytes
}

// changedBytes is the size of the files of v1 whose content v0 does not have at
// the same path.
func changedBytes(t *testing.T, v0, v1 string) (bytes int64, files int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(v1, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		now, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		before, err := os.ReadFile(v0 + strings.TrimPrefix(path, v1))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if string(before) != string(now) {
			bytes += int64(len(now))
			files++
		}
		return nil
	}))
	return bytes, files
}

func mb(n int64) float64 { return float64(n) / 1e6 }

func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
