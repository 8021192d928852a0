package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer/blob"
)

// roost runs a command in this process.
func roost(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = realMain(args, strings.NewReader(""), &o, &e)
	return code, strings.TrimRight(o.String(), "\n"), e.String()
}

// must runs a command that must do it.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := roost(t, args...)
	require.Zero(t, code, "%v: %s", args, errs)
	return out
}

func lay(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for p, content := range files {
		path := filepath.Join(dir, p)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
}

// sameFiles compares names and contents.
func sameFiles(t testing.TB, a, b string) {
	t.Helper()
	list := func(dir string) map[string]string {
		out := map[string]string{}
		require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, _ := filepath.Rel(dir, p)
			raw, err := os.ReadFile(p)
			out[rel] = string(raw)
			return err
		}))
		return out
	}
	require.Equal(t, list(a), list(b))
}

func keysOf(t *testing.T, line string) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, json.Unmarshal([]byte(line), &m), line)
	return m
}

func TestSnapshotCommands(t *testing.T) {
	home := t.TempDir()
	t.Setenv("ROOST_STORE", "")
	dir, st := filepath.Join(home, "d"), filepath.Join(home, "store")
	lay(t, dir, map[string]string{"a": "a", "b/c": "c"})
	one := must(t, "snapshot", "create", dir, "--store", st, "--base", "latest") // there is none yet
	_, err := snapshot.ParseID(one)
	require.NoError(t, err, "create prints the id alone")
	t.Setenv("ROOST_STORE", st)
	lay(t, dir, map[string]string{"new": "new!"})
	require.NoError(t, os.Remove(filepath.Join(dir, "a")))
	made := keysOf(t, must(t, "snapshot", "create", dir, "--base", one[:6], "--json"))
	require.Len(t, made, 6)
	for k, want := range map[string]any{"entries": 4.0, "bytes": 5.0, "bytes_new": 4.0} {
		require.Equal(t, want, made[k], k)
	}
	for _, k := range []string{"snapshot", "bytes_stored", "wall_ms"} {
		require.NotZero(t, made[k], k)
	}
	two := made["snapshot"].(string)
	require.Equal(t, "M .\nD a\nA new", must(t, "snapshot", "diff", one, "latest"))
	require.Empty(t, must(t, "snapshot", "diff", two, two))
	lines := strings.Split(must(t, "snapshot", "diff", one, two, "--json"), "\n")
	require.Equal(t, map[string]any{"change": "D", "path": "a", "type": "file"}, keysOf(t, lines[1]))
	code, _, _ := roost(t, "snapshot", "diff", one, two, "--exit-code")
	require.Equal(t, exitFailed, code)
	ls := strings.Split(must(t, "snapshot", "ls", "--json"), "\n")
	require.Len(t, ls, 2)
	require.Equal(t, one, keysOf(t, ls[1])["base"])
	require.Contains(t, must(t, "snapshot", "ls"), two)
	to := filepath.Join(home, "back")
	require.Contains(t, must(t, "snapshot", "restore", "latest", to), "4 entries")
	sameFiles(t, dir, to)
	require.Equal(t, 2, strings.Count(must(t, "snapshot", "verify"), "ok "))

	require.Equal(t, ".\nb\nb/c\nnew", must(t, "snapshot", "ls", two))
	require.Equal(t, "b\nb/c", must(t, "snapshot", "ls", two, "/b/"))
	require.Contains(t, must(t, "snapshot", "ls", "-l", two, "b/c"), "-rw-r--r-- ")
	require.Equal(t, 1.0, keysOf(t, must(t, "snapshot", "ls", two, "b/c", "--json"))["bytes"])
	require.Equal(t, "new!", must(t, "snapshot", "cat", two, "./new"))
	some := filepath.Join(home, "some")
	must(t, "snapshot", "restore", one, some, "--path", "b")
	require.FileExists(t, filepath.Join(some, "b/c"))
	require.NoFileExists(t, filepath.Join(some, "a"))

	require.Equal(t, "would delete "+one, must(t, "snapshot", "rm", one, "--dry-run"))
	must(t, "snapshot", "rm", one)
	require.NotContains(t, must(t, "snapshot", "ls", "--json"), one, "not even as a base")
	must(t, "snapshot", "verify")
	require.Equal(t, "D b\nD b/c", must(t, "snapshot", "diff", two, must(t, "snapshot", "create", dir, "--exclude", "b")))
	require.Equal(t, 2, strings.Count(must(t, "snapshot", "prune", "--keep-last", "1", "--dry-run"), "\n")+1)
	must(t, "snapshot", "prune", "--keep-last", "1")
	must(t, "snapshot", "rm", "latest", "latest")
	for _, d := range []string{"packs", "indexes", "manifests"} {
		left, err := os.ReadDir(filepath.Join(st, d))
		require.NoError(t, err)
		require.Empty(t, left, d)
	}
	if runtime.GOOS != "windows" {
		fi, err := os.Stat(filepath.Join(st, "key"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
	}
}

func TestSnapshotExitStatuses(t *testing.T) {
	home := t.TempDir()
	dir, st := filepath.Join(home, "d"), filepath.Join(home, "store")
	lay(t, dir, map[string]string{"a": "a"})
	t.Setenv("ROOST_STORE", st)
	one := must(t, "snapshot", "create", dir)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"restore", "nothing", home + "/x"}, exitUsage, "no snapshot"},
		{[]string{"restore", one[:3], home + "/x"}, exitUsage, "4 characters"},
		{[]string{"restore", one, dir}, exitUsage, "something already"},
		{[]string{"restore", one, st + "/back"}, exitUsage, "apart from each other"},
		{[]string{"restore", one}, exitUsage, "usage"},
		{[]string{"create", home + "/absent"}, exitUsage, "no such file"},
		{[]string{"create", dir, "--base", "zzzz"}, exitUsage, "no snapshot"},
		{[]string{"create", dir + "/a"}, exitUsage, "not a directory"},
		{[]string{"create", home}, exitUsage, "would hold itself"},
		{[]string{"create", dir, "--store", dir + "/none"}, exitUsage, "would hold itself"},
		{[]string{"create", home + "/absent", "--store", home + "/none"}, exitUsage, "no such file"},
		{[]string{"mount", one, home}, exitUsage, "not empty"},
		{[]string{"push", one, home}, exitUsage, "directory of its own"},
		{[]string{"push", one, dir + "/a"}, exitUsage, "not a directory"},
		{[]string{"push", one, "http://127.0.0.1:1/v1/blobs"}, exitUnreachable, "http://127.0.0.1:1 does not answer"},
		{[]string{"pull", one, home + "/none"}, exitUnreachable, "nothing was pushed"},
		{[]string{"pull", one, dir}, exitUnreachable, "nothing was pushed"},
		{[]string{"ls", "--store", home + "/none"}, exitUnreachable, "no store"},
		{[]string{"ls", "--store", ""}, exitUsage, "--store DIR"},
		{[]string{"push", one, "ftp://x/y"}, exitUsage, "not known"},
		{[]string{"push", one, "https://me:secret@example.org/x"}, exitUsage, "user or password"},
		{[]string{"pull", "latest", home}, exitUsage, "whole id"},
		{[]string{"ls", one, "b"}, exitUsage, "no \"b\""},
		{[]string{"ls", one, "../a"}, exitUsage, "leads out"},
		{[]string{"cat", one, "b"}, exitUsage, "no \"b\""},
		{[]string{"cat", one, "."}, exitUsage, "not a regular file"},
		{[]string{"restore", one, home + "/x", "--path", "b"}, exitUsage, "no \"b\""},
		{[]string{"create", dir, "--exclude", "["}, exitUsage, "syntax error"},
		{[]string{"create", dir, "--exclude-from", home + "/none"}, exitUsage, "no such file"},
		{[]string{"prune"}, exitUsage, "no rule"},
		{[]string{"prune", "--keep-last", "-1"}, exitUsage, "fewer"},
		{[]string{"rm", one, "nothing"}, exitUsage, "no snapshot"},
		{[]string{"restore", one, "."}, exitUsage, "working directory"},
		{[]string{"mount", one, dir + "/a"}, exitUsage, "not a directory"},
		{[]string{"push", one, "https://"}, exitUsage, "which host"},
		{[]string{"prune", "--keep-last", "x"}, exitUsage, `"x" for "--keep-last" flag: invalid syntax`},
		{[]string{"key", home + "/none/key"}, exitUsage, "key file " + home + "/none/key can't be written: "},
		{[]string{"umount", home + "/none"}, exitUsage, "nothing is mounted"},
	} {
		code, out, errs := roost(t, append([]string{"snapshot"}, c.args...)...)
		require.Equal(t, c.code, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.says, c.args)
		require.Empty(t, out, c.args)
		require.NotContains(t, errs, "secret")
	}
	require.NoDirExists(t, home+"/none", "a word that was mistyped makes no store and no depot")
	require.NoDirExists(t, dir+"/none")
	require.Contains(t, must(t, "snapshot", "key", home+"/key", "--json"), home+"/key")

	held, err := store.Open(t.Context(), st, store.Options{Driver: func(root string) (view.Driver, error) {
		return view.Open(view.NameCopy, root, view.Options{})
	}})
	require.NoError(t, err)
	code, _, errs := roost(t, "snapshot", "ls")
	require.NoError(t, held.Close())
	require.Equal(t, exitUnreachable, code)
	require.Contains(t, errs, "held by pid ")
}

// depotServer is a blob server behind a token.
func depotServer(t *testing.T, dir, token string) string {
	t.Helper()
	d, err := blob.OpenDir(dir, blob.DirOptions{})
	require.NoError(t, err)
	h := http.StripPrefix("/v1/blobs", blob.Handler(d, blob.HandlerOptions{}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { srv.Close(); d.Close() })
	return srv.URL + "/v1/blobs"
}

func TestSnapshotPushAndPull(t *testing.T) {
	home := t.TempDir()
	token := strings.Repeat("t", 40)
	places := map[string]string{
		"directory": filepath.Join(home, "depot"), "file URL": "file://" + filepath.Join(home, "depot2"),
		"http": depotServer(t, filepath.Join(home, "served"), token),
	}
	dir, st := filepath.Join(home, "d"), filepath.Join(home, "store")
	lay(t, dir, map[string]string{"a": "a", "b/c": "c"})
	one := must(t, "snapshot", "create", dir, "--store", st)
	lay(t, dir, map[string]string{"b/d": "d"})
	two := must(t, "snapshot", "create", dir, "--store", st, "--base", one)
	lay(t, dir, map[string]string{"b/e": "e"})
	three := must(t, "snapshot", "create", dir, "--store", st, "--base", two)
	key := filepath.Join(home, "key")
	must(t, "snapshot", "key", key, "--store", st)
	for name, url := range places {
		t.Run(name, func(t *testing.T) {
			there := filepath.Join(t.TempDir(), "there")
			if name == "http" {
				code, _, errs := roost(t, "snapshot", "push", two, url, "--store", st)
				require.Equal(t, exitRefused, code, errs)
			}
			t.Setenv("ROOST_TOKEN", token)
			sent := keysOf(t, must(t, "snapshot", "push", two, url, "--store", st, "--json"))
			require.Equal(t, 2.0, sent["layers"])
			require.NotZero(t, sent["bytes_sent"])
			sent = keysOf(t, must(t, "snapshot", "push", three, url, "--store", st, "--json"))
			require.Equal(t, 3.0, sent["layers"])
			again := keysOf(t, must(t, "snapshot", "push", three, url, "--store", st, "--json"))
			require.Zero(t, again["bytes_sent"], "only what is missing goes")

			code, _, errs := roost(t, "snapshot", "pull", three, url, "--store", there)
			require.Equal(t, exitUsage, code, errs)
			require.Contains(t, errs, "--key-file")
			other := filepath.Join(t.TempDir(), "other")
			require.NoError(t, store.WriteKey(other, bytes.Repeat([]byte{7}, 32)))
			code, _, errs = roost(t, "snapshot", "pull", three, url, "--store", there, "--key-file", other)
			require.Equal(t, exitFailed, code, errs)
			require.Contains(t, errs, "not written with this key")
			code, _, errs = roost(t, "snapshot", "pull", strings.Repeat("z", 26), url, "--store", there, "--key-file", key)
			require.Equal(t, exitUsage, code, errs)

			require.Equal(t, three, must(t, "snapshot", "pull", three, url, "--store", there, "--key-file", key))
			to := filepath.Join(t.TempDir(), "back")
			must(t, "snapshot", "restore", three, to, "--store", there)
			sameFiles(t, dir, to)
			require.Equal(t, 3, strings.Count(must(t, "snapshot", "verify", "--store", there), "ok "))
			must(t, "snapshot", "create", to, "--base", three, "--store", there) // the key is the store's now
			must(t, "snapshot", "pull", three, url, "--store", there)
			os.Unsetenv("ROOST_TOKEN")
		})
	}
	t.Setenv("ROOST_TOKEN", token)
	code, _, errs := roost(t, "snapshot", "push", two, "http://example.org/v1/blobs", "--store", st)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "plain http")
}

// What ls says of each adds up to what the store has, also where a snapshot came alone
// that needs the packs of another.
func TestSnapshotStored(t *testing.T) {
	home := t.TempDir()
	dir, st, depot, there := filepath.Join(home, "d"), filepath.Join(home, "store"), filepath.Join(home, "depot"), filepath.Join(home, "there")
	lay(t, dir, map[string]string{"a": strings.Repeat("a", 100_000), "b": "b"})
	one := must(t, "snapshot", "create", dir, "--store", st)
	lay(t, dir, map[string]string{"c": "c"})
	two := must(t, "snapshot", "create", dir, "--store", st)
	must(t, "snapshot", "push", two, depot, "--store", st)
	must(t, "snapshot", "key", filepath.Join(home, "key"), "--store", st)
	must(t, "snapshot", "pull", two, depot, "--store", there, "--key-file", filepath.Join(home, "key"))
	must(t, "snapshot", "rm", one, "--store", st)
	for _, s := range []string{st, there} {
		want := 0.0
		for _, d := range []string{"packs", "indexes"} {
			files, err := os.ReadDir(filepath.Join(s, d))
			require.NoError(t, err)
			for _, f := range files {
				fi, err := f.Info()
				require.NoError(t, err)
				want += float64(fi.Size())
			}
		}
		require.Equal(t, want, keysOf(t, must(t, "snapshot", "ls", "--json", "--store", s))["bytes_stored"])
	}
}

// untold is a standard output that nobody reads any more.
type untold struct{}

func (untold) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.ENOSPC}
}

// A result that can't be told is a failure, and says what was done all the same.
func TestSnapshotUntold(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "d")
	lay(t, dir, map[string]string{"a": "a"})
	t.Setenv("ROOST_STORE", filepath.Join(home, "store"))
	for _, format := range [][]string{nil, {"--json"}} {
		for _, args := range [][]string{{"create", dir}, {"ls"}, {"verify"}} {
			var errs bytes.Buffer
			code := realMain(append(append([]string{"snapshot"}, args...), format...), strings.NewReader(""), untold{}, &errs)
			require.Equal(t, exitFailed, code, args)
			require.NotContains(t, errs.String(), "deleted", args)
			if args[0] == "create" {
				require.Contains(t, errs.String(), "is made", args)
			}
		}
	}
	require.Equal(t, 2, strings.Count(must(t, "snapshot", "verify"), "ok "))
}

// Whoever keeps what was pushed can't make anybody take something else for it.
func TestSnapshotPullBelievesNoDepot(t *testing.T) {
	home := t.TempDir()
	dir, st, depot := filepath.Join(home, "d"), filepath.Join(home, "store"), filepath.Join(home, "depot")
	lay(t, dir, map[string]string{"a": "a", "b": "b"})
	one := must(t, "snapshot", "create", dir, "--store", st)
	lay(t, dir, map[string]string{"a": "other"})
	two := must(t, "snapshot", "create", dir, "--store", st)
	must(t, "snapshot", "push", one, depot, "--store", st)
	must(t, "snapshot", "push", two, depot, "--store", st)
	key := filepath.Join(home, "key")
	must(t, "snapshot", "key", key, "--store", st)
	ref := func(id string) string { return filepath.Join(depot, "refs", id) }
	good, err := os.ReadFile(ref(one))
	require.NoError(t, err)
	newer, err := os.ReadFile(ref(two))
	require.NoError(t, err)
	for name, bad := range map[string][]byte{
		"another's":       newer,
		"renamed":         bytes.ReplaceAll(newer, []byte(two), []byte(one)),
		"another number":  bytes.Replace(good, []byte(`"entries":3`), []byte(`"entries":4`), 1),
		"one member more": bytes.Replace(good, []byte(`{`), []byte(`{"x":1,`), 1),
		"a member twice":  bytes.Replace(good, []byte(`{`), []byte(`{"base":"`+two+`",`), 1),
		"no JSON":         good[:len(good)/2],
		"empty":           {},
		"too long":        append(bytes.Clone(good), bytes.Repeat([]byte(" "), 70<<10)...),
		"newer version":   bytes.Replace(good, []byte(`"version":1`), []byte(`"version":2`), 1),
	} {
		t.Run(name, func(t *testing.T) {
			require.NotEqual(t, good, bad)
			require.NoError(t, os.WriteFile(ref(one), bad, 0o600))
			there := filepath.Join(t.TempDir(), "there")
			code, _, errs := roost(t, "snapshot", "pull", one, depot, "--store", there, "--key-file", key)
			require.NotZero(t, code, errs)
			require.Empty(t, must(t, "snapshot", "ls", "--json", "--store", there))
			require.NoFileExists(t, filepath.Join(there, "key"), "a key that did not fit is not taken")
		})
	}
	require.NoError(t, os.WriteFile(ref(one), good, 0o600))
	require.Equal(t, one, must(t, "snapshot", "pull", one, depot, "--store", filepath.Join(home, "t"), "--key-file", key))
	require.NoError(t, os.WriteFile(ref(one), newer, 0o600))
	code, _, errs := roost(t, "snapshot", "push", one, depot, "--store", st)
	require.Equal(t, exitFailed, code, errs)
	require.Contains(t, errs, "another one")
}

func TestSnapshotCompletion(t *testing.T) {
	home := t.TempDir()
	t.Setenv("ROOST_STORE", filepath.Join(home, "store"))
	lay(t, home+"/d", map[string]string{"a": "a"})
	one := must(t, "snapshot", "create", home+"/d")
	out := must(t, "__complete", "snapshot", "restore", "")
	require.Contains(t, out, one)
	require.Contains(t, out, "latest")
	require.NotContains(t, must(t, "__complete", "snapshot", "restore", one, ""), one)
	require.Contains(t, must(t, "__complete", "snapshot", "create", "d", "--base", ""), one)
}

func TestSnapshotPullUnpack(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	home := t.TempDir()
	dir, st, depot := filepath.Join(home, "d"), filepath.Join(home, "store"), filepath.Join(home, "depot")
	key := filepath.Join(home, "key")
	lay(t, dir, map[string]string{"a": "a", "b/c": strings.Repeat("c", 2<<20), "b/gone": "x"})
	one := must(t, "snapshot", "create", dir, "--store", st)
	require.NoError(t, os.Remove(filepath.Join(dir, "b/gone")))
	lay(t, dir, map[string]string{"b/d": "d"})
	two := must(t, "snapshot", "create", dir, "--store", st, "--base", one)
	must(t, "snapshot", "key", key, "--store", st)
	must(t, "snapshot", "push", two, depot, "--store", st)
	for name, before := range map[string][]string{
		"into an empty store": nil, "on what is stored only": {one}, "on what is unpacked": {one, "--unpack"},
	} {
		t.Run(name, func(t *testing.T) {
			there, mnt := filepath.Join(t.TempDir(), "there"), filepath.Join(t.TempDir(), "mnt")
			from := []string{depot, "--store", there, "--key-file", key}
			if before != nil {
				must(t, append(append([]string{"snapshot", "pull"}, before...), from...)...)
			}
			code, _, _ := roost(t, append([]string{"snapshot", "pull", two, "--no-sync"}, from...)...)
			require.NotZero(t, code, "without --unpack")
			code, _, _ = roost(t, append([]string{"snapshot", "pull", two, "--mount", mnt}, from...)...)
			require.NotZero(t, code, "without --unpack")
			code, _, errs := roost(t, append([]string{"snapshot", "pull", two, "--unpack", "--mount", dir}, from...)...)
			require.NotZero(t, code)
			require.Contains(t, errs, "not empty")
			got := keysOf(t, must(t, append([]string{"snapshot", "pull", two, "--unpack", "--no-sync", "--mount", mnt, "--json"}, from...)...))
			require.NotZero(t, got["bytes_fetched"])
			require.Equal(t, mnt, got["dir"])
			defer roost(t, "snapshot", "umount", mnt)
			sameFiles(t, dir, mnt)
			code, _, _ = roost(t, "snapshot", "rm", two, "--store", there)
			require.NotZero(t, code, "somebody looks at it")
			again := mnt + ".2"
			must(t, append([]string{"snapshot", "pull", two, "--unpack", "--mount", again}, from...)...)
			sameFiles(t, dir, again)
			must(t, "snapshot", "umount", again)
			must(t, append([]string{"snapshot", "pull", two, "--unpack"}, from...)...)
			to := filepath.Join(t.TempDir(), "to")
			must(t, "snapshot", "restore", two, to, "--store", there)
			sameFiles(t, dir, to)
			must(t, "snapshot", "verify", "--store", there)
		})
	}
}

func TestSnapshotMount(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	home := t.TempDir()
	dir, st, mnt := filepath.Join(home, "d"), filepath.Join(home, "store"), filepath.Join(home, "mnt")
	t.Setenv("ROOST_STORE", st)
	lay(t, dir, map[string]string{"a": "a", "b/c": strings.Repeat("c", 2<<20)})
	one := must(t, "snapshot", "create", dir)
	require.Contains(t, must(t, "snapshot", "mount", one, mnt, "--detach"), mnt)
	defer roost(t, "snapshot", "umount", mnt)
	sameFiles(t, dir, mnt)
	require.Error(t, os.WriteFile(filepath.Join(mnt, "x"), nil, 0o600))
	// The store can be used, and does not end what is shown, nor remove it.
	must(t, "snapshot", "create", dir, "--base", one)
	sameFiles(t, dir, mnt)
	must(t, "snapshot", "rm", "latest")
	code, _, errs := roost(t, "snapshot", "rm", one)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "mount")
	sameFiles(t, dir, mnt)
	must(t, "snapshot", "verify")
	code, _, _ = roost(t, "snapshot", "umount", dir)
	require.Equal(t, exitUsage, code)
	must(t, "snapshot", "umount", mnt)
	require.NoDirExists(t, mnt)
	must(t, "snapshot", "rm", one)
	require.NoFileExists(t, filepath.Join(st, "mounts"))
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(b), home)
}
