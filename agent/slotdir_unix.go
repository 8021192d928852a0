//go:build unix

package agent

import (
	"fmt"
	"os"
	"syscall"
)

// own makes a slot's directory the runners' user's. Only root can, and who is not root
// is the user himself.
func (a *Agent) own(dir string) error {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Mode().Perm() != 0o755 {
		if err := f.Chmod(0o755); err != nil {
			return err
		}
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || int(st.Uid) == a.uid && int(st.Gid) == a.gid {
		return nil
	}
	if err := f.Chown(a.uid, a.gid); err != nil {
		return fmt.Errorf("owner of %s: %w", dir, err)
	}
	return nil
}
