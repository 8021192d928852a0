package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who pulled a snapshot pushes what was made on it to where that came from: of the two
// refs that there are of the pulled one, only what is for people differs.
func TestSnapshotPushWhatWasPulled(t *testing.T) {
	home := t.TempDir()
	at := func(name string) string { return filepath.Join(home, name) }
	lay(t, at("d"), map[string]string{"a": "a", "b": "b"})
	one := must(t, "snapshot", "create", at("d"), "--store", at("first"))
	must(t, "snapshot", "push", one, at("remote"), "--store", at("first"))
	must(t, "snapshot", "key", at("k"), "--store", at("first"))
	for _, how := range [][]string{nil, {"--unpack"}} {
		st := at("second" + filepath.Join(how...))
		must(t, append([]string{"snapshot", "pull", one, at("remote"), "--store", st, "--key-file", at("k")}, how...)...)
		lay(t, at("d"), map[string]string{"c": "c" + st})
		two := must(t, "snapshot", "create", at("d"), "--base", one, "--store", st)
		must(t, "snapshot", "push", two, at("remote"), "--store", st)
		must(t, "snapshot", "pull", two, at("remote"), "--store", at("first"))
		back := at("back" + filepath.Join(how...))
		must(t, "snapshot", "restore", two, back, "--store", at("first"))
		sameFiles(t, at("d"), back)
	}

	// Another snapshot under the id is another.
	lay(t, at("e"), map[string]string{"e": "e"})
	other := must(t, "snapshot", "create", at("e"), "--store", at("first"))
	must(t, "snapshot", "push", other, at("remote2"), "--store", at("first"))
	lay(t, at("remote2/refs"), map[string]string{one: "{}"})
	code, _, errs := roost(t, "snapshot", "push", one, at("remote2"), "--store", at("first"))
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "another one")
}
