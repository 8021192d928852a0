//go:build bench && linux

package bench

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// copier makes a copy of a tree on the same host, and keeps one up to date.
type copier struct {
	name  string
	needs string // the program
	// copies fills $2, which is absent, from $1.
	copies string
	// updates makes $2, an earlier copy, like $1. "" if it can't. $3 is absent and
	// may be made instead of $2.
	updates   string
	elsewhere bool // updates makes $3
}

// copiers are what people hand trees over with on one host. cp -u looks at times
// alone and does not see deletions, which is to its advantage.
var copiers = []copier{
	{
		name: "cp -a", needs: "cp", copies: `cp -a --reflink=never "$1" "$2"`,
		updates: `cp -au --reflink=never "$1"/. "$2"/`,
	},
	{
		name: "cp -a --reflink=auto", needs: "cp", copies: `cp -a --reflink=auto "$1" "$2"`,
		updates: `cp -au --reflink=auto "$1"/. "$2"/`,
	},
	{
		name: "rsync -a", needs: "rsync", copies: `rsync -a "$1"/ "$2"/`,
		updates: `rsync -a --delete "$1"/ "$2"/`,
	},
	{
		name: "hard-link farm", needs: "rsync", copies: `cp -al "$1" "$2"`,
		updates: `rsync -a --delete --link-dest="$2" "$1"/ "$3"/`, elsewhere: true,
	},
}

// archiver stores a tree in one file and brings it back. It has no incremental
// form: a small change is the whole tree again.
type archiver struct {
	name    string
	ext     string
	needs   []string
	save    func(t *testing.T, dir, file string)
	restore func(t *testing.T, file, dir string)
}

var archivers = []archiver{
	{
		name: "tar, zstd -1", ext: ".tar.zst", needs: []string{"tar", "zstd"},
		save: func(t *testing.T, dir, file string) {
			shell(t, `tar -C "$1" -c . | zstd -q -1 -T0 -f -o "$2"`, dir, file)
		},
		restore: func(t *testing.T, file, dir string) {
			shell(t, `zstd -q -d -c "$1" | tar -C "$2" -x -p`, file, dir)
		},
	},
	{name: "zip", ext: ".zip", save: saveZip, restore: restoreZip},
}

// usable says that all the programs are there, and otherwise why there is no row.
func usable(t *testing.T, way string, programs ...string) bool {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Logf("no row for %q: %s is not installed", way, p)
			return false
		}
	}
	return true
}

func mkdir(t *testing.T, path string) string {
	t.Helper()
	require.NoError(t, os.Mkdir(path, 0o755))
	return path
}
