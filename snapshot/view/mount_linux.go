package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view/internal/fsmount"
)

// stack is one overlay to be mounted; all paths are absolute.
type stack struct {
	lowers []string // topmost first, at least one
	data   []string
	upper  string // "" for a read-only mount
	work   string
}

// mountSource is the first word of our lines in /proc/mounts.
const mountSource = "roost"

// overlayParams are the same in every mount of ours:
// volatile: no flush of the whole upper file system at unmount, Sync does that;
// redirect_dir: inherited directories can be renamed;
// metacopy: chown -R copies no content, and stubs of a fan-in work at all;
// index=off: else writes through hard links are lost once the upper is a lower;
// xino=off: inode numbers stay below 2^53.
var overlayParams = [][2]string{
	{"redirect_dir", "on"}, {"metacopy", "on"}, {"index", "off"}, {"xino", "off"},
}

// mountStack shows s at target, which must exist. nosuid and nodev make inert
// what a job could smuggle into a tree.
func mountStack(s stack, target string, legacy bool) error {
	if legacy {
		return mountLegacy(s, target)
	}
	fs, err := fsmount.Open("overlay")
	if err != nil {
		return err
	}
	defer fs.Close()
	if err := configure(fs, s); err != nil {
		return err
	}
	mnt, err := fs.Mount(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	defer mnt.Close() //nolint:errcheck // a reference; the mount stays
	fail.Point("view.mount.detached")
	if err := fsmount.Attach(mnt, target); err != nil {
		return err
	}
	fail.Point("view.mount.attached")
	return private(target)
}

// private keeps what is mounted inside a view from spreading to the peers of the
// file system that the view is attached to, and the reverse. The view itself has
// spread to them already, as containers need it.
func private(target string) error {
	err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
	if errors.Is(err, unix.ENOSYS) { // before 5.12
		err = unix.Mount("", target, "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		// Detached, since our own descriptor of it is open; nobody has been in it yet.
		unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) //nolint:errcheck // the first error is the one to tell
		return fmt.Errorf("overlay: make %s private: %w", target, err)
	}
	return nil
}

func configure(fs *fsmount.Config, s stack) error {
	options := append([][2]string{{"source", mountSource}}, overlayParams...)
	for _, d := range s.lowers {
		options = append(options, [2]string{"lowerdir+", d})
	}
	for _, d := range s.data {
		options = append(options, [2]string{"datadir+", d})
	}
	if s.upper != "" {
		// In these two, unlike the others, the kernel takes a backslash for an escape.
		esc := strings.NewReplacer(`\`, `\\`)
		options = append(options, [2]string{"upperdir", esc.Replace(s.upper)}, [2]string{"workdir", esc.Replace(s.work)})
	}
	for _, o := range options {
		if err := fs.Set(o[0], o[1]); err != nil {
			return err
		}
	}
	if s.upper != "" {
		if err := fs.Flag("volatile"); err != nil {
			return err
		}
	}
	return fs.Create()
}

// mountLegacy mounts by mount(2), for kernels before 6.8. All options must fit in
// one page there, so lowers are named by short paths of open descriptors.
func mountLegacy(s stack, target string) error {
	if len(s.data) > 0 {
		return errors.New("overlay: data-only directories need Linux 6.8")
	}
	names := make([]string, len(s.lowers))
	for i, d := range s.lowers {
		fd, err := unix.Open(d, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: d, Err: err}
		}
		defer unix.Close(fd) //nolint:errcheck,gocritic // needed until the mount is made
		names[i] = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	opts := "lowerdir=" + strings.Join(names, ":")
	for _, p := range overlayParams {
		opts += "," + p[0] + "=" + p[1]
	}
	if s.upper != "" {
		esc := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
		opts += ",volatile,upperdir=" + esc.Replace(s.upper) + ",workdir=" + esc.Replace(s.work)
	}
	if len(opts) >= os.Getpagesize() {
		return fmt.Errorf("overlay: %d lower directories do not fit in one page of options", len(names))
	}
	// By its descriptor: mount(2) would follow a link that was put there just now.
	at, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: target, Err: err}
	}
	defer unix.Close(at) //nolint:errcheck // a reference
	// The kernel shows the lowers as they are named here: the first one's real name
	// goes where it is shown, too.
	if err := unix.Mount(mountSource+":"+s.lowers[0], "/proc/self/fd/"+strconv.Itoa(at), "overlay", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("overlay: mount at %s: %w", target, err)
	}
	fail.Point("view.mount.attached")
	return private(target)
}

var errNoOverlay = errors.New("no overlay is mounted there")

// setReadOnly changes the whole file system that is mounted at target, in every
// mount namespace. It fails with EBUSY while anybody, anywhere, has a file open
// for writing: a plain unmount would not.
func setReadOnly(target string, ro bool) error {
	// What is mounted below a view that has gone must never be changed instead.
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return fmt.Errorf("remount %s: %w", target, err)
	}
	if st.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("remount %s: %w", target, errNoOverlay)
	}
	fs, err := fsmount.Pick(target)
	if err != nil {
		return err
	}
	defer fs.Close()
	flag := "rw"
	if ro {
		flag = "ro"
	}
	if err := fs.Flag(flag); err != nil {
		return err
	}
	return fs.Reconfigure()
}

// mountID is the id of the mount at target that no other mount ever gets, 0 where
// the kernel has none (before 6.8) or nothing is mounted there.
func mountID(target string) uint64 {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID_UNIQUE, &st)
	if err != nil || st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return 0
	}
	return st.Mnt_id
}

// retryBusy calls f until it returns something else than EBUSY or wait is over.
// The last error is then wrapped so that errors.Is(err, snapshot.ErrBusy) holds.
func (o Options) retryBusy(ctx context.Context, wait time.Duration, f func() error) error {
	pause := 2 * time.Millisecond
	for waited := time.Duration(0); ; {
		err := f()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if waited >= wait {
			return fmt.Errorf("%w: %w", snapshot.ErrBusy, err)
		}
		if serr := o.Sleep(ctx, pause); serr != nil {
			return fmt.Errorf("%w: %w", snapshot.ErrBusy, serr)
		}
		waited += pause
		pause = min(2*pause, 200*time.Millisecond)
	}
}

// unmount removes what is mounted at target and below it, the last mount first.
// Never lazily: a lazily unmounted view can still be written to.
func (o Options) unmount(ctx context.Context, target string, wait time.Duration) error {
	mounts, err := mountsAt(target)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		err := o.retryBusy(ctx, wait, func() error {
			err := unix.Unmount(mounts[i].point, unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EINVAL) { // no mount any more
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("unmount %s: %w", mounts[i].point, err)
		}
	}
	return nil
}
