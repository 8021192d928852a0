//go:build bench && linux

package bench

import (
	"path/filepath"
	"testing"
)

// roostWay is the command line on a store directory alone. ROOST is the binary.
var roostWay = way{
	name: "Roost", prog: `"$ROOST" version`,
	save:  `"$ROOST" snapshot create "$SRC" --store "$REPO/store" > "$REPO/last"`,
	again: `"$ROOST" snapshot create "$SRC" --store "$REPO/store" --base "$(cat "$REPO/last")" > "$REPO/next"; mv "$REPO/next" "$REPO/last"`,
	back:  `rmdir "$DST"; "$ROOST" snapshot restore "$(cat "$REPO/last")" "$DST" --store "$REPO/store"`,
	ready: `"$ROOST" snapshot push "$(cat "$REPO/last")" "$REPO/../blobs" --store "$REPO/store"; "$ROOST" snapshot key "$REPO/../key" --store "$REPO/store"`,
	// To a store that has nothing, from a directory of blobs.
	mount:  `"$ROOST" snapshot pull "$(cat "$REPO/last")" "$REPO/../blobs" --unpack --no-sync --mount "$DST" --store "$REPO/../other" --key-file "$REPO/../key"`,
	umount: `"$ROOST" snapshot umount "$DST"`,
}

// buildRoost builds the command and returns where it is.
func buildRoost(t *testing.T, set settings) string {
	t.Helper()
	bin := filepath.Join(set.dir, "roost")
	must(t, `go build -trimpath -o "$BIN" ../../cmd/roost`, "BIN="+bin)
	return bin
}
