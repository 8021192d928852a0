package promises

import (
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
// on it, and the row is synced before anybody is told.
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
		record(t, began, "power cut, the order of syncs", total, "write-like calls of %s: each file synced before its rename, each directory before the row, each row before the answer", strings.Join(operations, ", "))
	})
}

// rows says which operations end with a row in the database.
var rows = []string{"prepare", "merge", "seal", "pack", "import", "discard", "remove", "durable", "create"}

func inOrder(t *testing.T, op, dir string, calls []call) {
	t.Helper()
	store := filepath.Join(dir, "store")
	wal, redo := filepath.Join(store, "store.db-wal"), filepath.Join(store, "redo")
	dirty := map[string]bool{}   // written and not synced
	unnamed := map[string]bool{} // directories with a new name that is not synced
	named := map[string]bool{}   // blobs and manifests that got their name
	recorded := false            // some row was written
	for _, c := range calls {
		kept := slices.Contains([]string{"packs", "indexes", "manifests"}, filepath.Base(filepath.Dir(c.path)))
		switch c.name {
		case "write", "pwrite", "ftruncate", "copy_file_range":
			dirty[c.path] = true
			if c.path == wal || c.path == redo {
				require.Empty(t, unnamed, "%s: a row before the names that it counts on are synced", op)
				recorded = true
			}
		case "fsync", "fdatasync":
			delete(dirty, c.path)
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
				recorded = false
			}
		}
	}
	require.Empty(t, unnamed, "%s: a name that was never synced", op)
	require.False(t, dirty[redo], "%s: the answer came before the row was synced", op)
	if slices.Contains(rows, op) {
		require.True(t, recorded, "%s: no row was written behind the files", op)
	}
	if op == "pack" || op == "import" {
		require.NotEmpty(t, named, op)
	}
}
