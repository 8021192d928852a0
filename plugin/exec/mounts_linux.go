package exec

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// makeNamespace makes the mounts of a job. The supervisor was born in mount, pid
// and ipc namespaces of its own; nothing that happens in them is seen outside, nor
// the other way round.
func makeNamespace(binds []bind, hide []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// The /proc that was inherited shows everybody's processes.
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc of the job's own processes: %w", err)
	}
	if err := ownShm(binds); err != nil {
		return err
	}
	for _, b := range binds {
		if err := bindMount(b); err != nil {
			return err
		}
	}
	for _, dir := range hide {
		if err := hideDir(dir); err != nil {
			return err
		}
	}
	return dropViews(binds)
}

// ownShm gives a job shared memory of its own: what other jobs leave there belongs
// to the same user, and what this one leaves would stay in memory for ever.
func ownShm(binds []bind) error {
	const shm = "/dev/shm"
	for _, b := range binds {
		if within(shm, b.From) || within(shm, b.To) {
			return nil // somebody's store in memory
		}
	}
	if fi, err := os.Lstat(shm); err != nil || !fi.IsDir() {
		return nil //nolint:nilerr // not there, or a link to where it is not ours to hide
	}
	if err := unix.Mount("none", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("shared memory: %w", err)
	}
	return nil
}

// viewSource is what views carry as their source in the table of mounts.
const viewSource = "roost"

// dropViews lets go of the views of other jobs, also of other agents' on this
// machine. This namespace was born with copies of their mounts, which would keep
// them alive after they are sealed, for as long as this job runs.
func dropViews(keep []bind) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		if m.FSType != "overlay" || m.Source != viewSource {
			return true, false
		}
		for _, b := range keep {
			if m.Mountpoint == b.To {
				return true, false
			}
		}
		return false, false
	})
	if err != nil {
		return fmt.Errorf("views of other jobs: %w", err)
	}
	return detach(mounts)
}

// detach lets go of mounts, the newest first. It does so lazily, which is right
// here: they are our own copies, and nobody uses them.
func detach(mounts []*mountinfo.Info) error {
	for i := len(mounts) - 1; i >= 0; i-- {
		m := mounts[i].Mountpoint
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("let go of %s: %w", m, err)
		}
	}
	return nil
}

// bindMount shows a directory at another place. Both are reached by descriptors,
// so that what is checked is what is mounted.
func bindMount(b bind) error {
	from, err := unix.Open(b.From, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", b.From, err)
	}
	defer unix.Close(from) //nolint:errcheck // O_PATH
	to, err := unix.Open(b.To, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", b.To, err)
	}
	defer unix.Close(to) //nolint:errcheck // O_PATH
	src, dst := fmt.Sprintf("/proc/self/fd/%d", from), fmt.Sprintf("/proc/self/fd/%d", to)
	if err := unix.Mount(src, dst, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show %s at %s: %w", b.From, b.To, err)
	}
	// A set-uid file or a device that a job made, or inherited, means nothing.
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV)
	if err := unix.Mount("", b.To, "", flags, ""); err != nil {
		return fmt.Errorf("remount %s: %w", b.To, err)
	}
	return nil
}

// hideDir puts an empty directory over dir. What is mounted below it is let go of
// first: this namespace must not keep another job's view alive after it is sealed.
func hideDir(dir string) error {
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return nil //nolint:nilerr // not there: nothing to hide
	}
	below := func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	}
	mounts, err := mountinfo.GetMounts(below)
	if err != nil {
		return fmt.Errorf("mounts below %s: %w", dir, err)
	}
	if err := detach(mounts); err != nil {
		return err
	}
	flags := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("none", dir, "tmpfs", flags, "size=4k,nr_inodes=2,mode=0555"); err != nil {
		return fmt.Errorf("hide %s: %w", dir, err)
	}
	return nil
}
