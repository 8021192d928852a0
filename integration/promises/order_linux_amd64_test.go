package promises

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOrder looks at the order of the system calls by which a store makes something
// last, since kill -9 can't show a lost write: what was written
// is synced before it gets its name, the name is synced before the row that counts
// on it, and the row's record is written and synced before anybody is told of what is to
// survive a power cut.
func TestOrder(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		began := time.Now()
		h := startFaulty(t, driver)
		total := 0
		for _, op := range operations {
			require.Empty(t, h.ask("set "+op).Bad, op)
			h.super.arm(0, 0, false)
			require.Empty(t, h.ask("do").Err, op)
			calls, _ := h.super.disarm()
			require.Empty(t, h.ask("check reopen").Bad, op)
			inOrder(t, op, h.super.dir, calls)
			total += len(calls)
		}
		h.stop()
		record(t, began, "power cut, the order of syncs", total, "write-like calls of %s: each file synced before its rename, each directory before the row, each row before the answer that it outlives a power cut", strings.Join(operations, ", "))
	})
}

// rows says which operations end with a row in the database.
var rows = []string{"prepare", "merge", "seal", "pack", "import", "discard", "remove", "durable", "evict", "create", "pull"}

// early are operations that are answered before the disk has their row: a power cut takes
// what they made in any case. A seal is one too, but that its outcome was reported is not.
var early = []string{"prepare", "merge"}

func inOrder(t *testing.T, op, dir string, calls []call) {
	t.Helper()
	store := filepath.Join(dir, "store")
	wal, redo := filepath.Join(store, "store.db-wal"), filepath.Join(store, "redo")
	dirty := map[string]bool{}   // written and not synced
	unnamed := map[string]bool{} // directories with a new name that is not synced
	named := map[string]bool{}   // blobs and manifests that got their name
	written := false             // some row was written
	var hasty []string           // of the last row: unnamed then
	unrecorded := false          // a row was, and behind it nothing to the redo log
	for _, c := range calls {
		kept := slices.Contains([]string{"packs", "indexes", "manifests"}, filepath.Base(filepath.Dir(c.path)))
		switch c.name {
		case "write", "pwrite", "ftruncate", "copy_file_range":
			dirty[c.path] = true
			switch c.path {
			case wal:
				hasty = slices.Sorted(maps.Keys(unnamed))
				if op != "pack" { // beside it the image is made, whose row counts on none of these names
					require.Empty(t, hasty, "%s: a row before the names that it counts on are synced", op)
				}
				written, unrecorded = true, true
			case redo:
				unrecorded = false
			}
		case "fsync", "fdatasync":
			delete(dirty, c.path)
			unrecorded = unrecorded && c.path != wal
			delete(unnamed, c.path)
		case "syncfs":
			clear(dirty)
			clear(unnamed)
		case "rename":
			if !kept {
				continue
			}
			require.False(t, dirty[c.from], "%s: %s got its name before it was synced", op, c.path)
			unnamed[filepath.Dir(c.path)] = true
			named[c.path] = true
			if op == "pack" || op == "import" {
				// Their one row comes last. The row that a layer is synced comes before.
				written = false
			}
		}
	}
	require.Empty(t, unnamed, "%s: a name that was never synced", op)
	require.Empty(t, hasty, "%s: the last row before the names that it counts on are synced", op)
	require.False(t, (unrecorded || dirty[redo]) && !slices.Contains(early, op), "%s: the answer came before the row was synced", op)
	if slices.Contains(rows, op) {
		require.True(t, written, "%s: no row was written behind the files", op)
	}
	if op == "pack" || op == "import" {
		require.NotEmpty(t, named, op)
	}
}
