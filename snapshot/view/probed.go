package view

import (
	"os"
	"path/filepath"
)

// probedName is the file in a store's root that says which driver was tried there, and
// under which circumstances: as long as these are the same it works, and who opens a
// store for a moment is spared two mounts and a dozen syncs. It is not synced: what is
// not read back as it should be says nothing.
const probedName = "probed"

const probedHeader = "roost-probed 1"

// probedText is what the file says of a driver that works now; "" where it can't be told
// whether that will be so.
func probedText(root, name string) string {
	now := circumstances(root)
	if now == "" {
		return ""
	}
	return probedHeader + "\n" + name + "\n" + now
}

// wasProbed reports whether the driver worked at root, where it made layers, and nothing
// that this hangs on has changed since.
func wasProbed(root, name string) bool {
	want := probedText(root, name)
	if want == "" || !isMarked(root, name) {
		return false
	}
	b, err := os.ReadFile(filepath.Join(root, probedName))
	return err == nil && string(b) == want
}

// noteProbed writes down that the driver works at root. Without that it is tried again.
func noteProbed(root, name string) {
	if text := probedText(root, name); text != "" {
		os.WriteFile(filepath.Join(root, probedName), []byte(text), 0o600) //nolint:errcheck,gosec // see above
	}
}
