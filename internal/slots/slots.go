// Package slots makes the directory below which the workspaces of runners' jobs
// appear: a directory for each slot, in a mount that is shared, so that what is
// mounted there later is seen in the mount namespaces of runners and containers
// that were made before.
package slots

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/roost-ci/roost/internal/durable"
)

// Prepare makes dir with a directory for each slot from 1 to n, and makes it a shared
// mount where that can be done: on Linux, as root. It may be called again.
func Prepare(dir string, n int) error {
	if err := Make(dir, n); err != nil {
		return err
	}
	return share(dir)
}

// Make makes the directories alone. Where views are no mounts but trees that are moved
// there it has to do: nothing can be moved into another mount.
func Make(dir string, n int) error {
	for slot := range n {
		if err := durable.MkdirAll(filepath.Join(dir, strconv.Itoa(slot+1)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// OpenView opens the root of a view in its slot's directory. What lies in it is a job's,
// which may have put a link in its place, too: nothing is followed out of the slot. The
// caller closes it.
func OpenView(view string) (*os.Root, error) {
	slot, err := os.OpenRoot(filepath.Dir(view))
	if err != nil {
		return nil, err
	}
	defer slot.Close() //nolint:errcheck // a directory; what was opened in it stays open
	return slot.OpenRoot(filepath.Base(view))
}
