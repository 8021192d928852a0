package slots

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// share makes dir a shared mount of itself. It stays when the agent ends, as jobs may
// be at work below it; the next agent finds it.
func share(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_BASIC_STATS, &st); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("make %s a mount: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make the mount %s shared: %w", dir, err)
	}
	return nil
}
