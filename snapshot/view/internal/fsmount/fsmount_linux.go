package fsmount

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Config is a file system that is being set up. Close it.
type Config struct {
	fd   int
	what string
}

// Open starts a mount of a file system of the type fs.
func Open(fs string) (*Config, error) {
	fd, err := unix.Fsopen(fs, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%s: fsopen: %w", fs, err)
	}
	return &Config{fd: fd, what: fs}, nil
}

// Pick takes the file system that is mounted at target, to change it everywhere.
func Pick(target string) (*Config, error) {
	fd, err := unix.Fspick(unix.AT_FDCWD, target, unix.FSPICK_CLOEXEC|unix.FSPICK_NO_AUTOMOUNT|unix.FSPICK_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("remount %s: %w", target, err)
	}
	return &Config{fd: fd, what: "remount " + target}, nil
}

// Close lets go. What was mounted stays.
func (c *Config) Close() {
	unix.Close(c.fd) //nolint:errcheck // nothing to lose
}

// Hold gives the descriptor away, to one who only wants the file system to stay. c is not used
// after it.
func (c *Config) Hold() *os.File { return os.NewFile(uintptr(c.fd), c.what) }

func (c *Config) failed(step string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w%s", c.what, step, err, c.says())
}

// Set gives an option its value.
func (c *Config) Set(key, value string) error {
	return c.failed(key+"="+value, unix.FsconfigSetString(c.fd, key, value))
}

// Flag sets an option without a value.
func (c *Config) Flag(key string) error { return c.failed(key, unix.FsconfigSetFlag(c.fd, key)) }

// Create makes the file system.
func (c *Config) Create() error { return c.failed("create", unix.FsconfigCreate(c.fd)) }

// Reconfigure makes what was set hold for a file system that was picked.
func (c *Config) Reconfigure() error {
	return c.failed("reconfigure", unix.FsconfigReconfigure(c.fd))
}

// Mount returns the root of the file system as a mount that is nowhere attached.
// When the file is closed and nothing else stands on it, the mount is gone.
func (c *Config) Mount(attrs int) (*os.File, error) {
	mnt, err := unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, c.failed("fsmount", err)
	}
	return os.NewFile(uintptr(mnt), c.what), nil
}

// Attach shows a detached mount at target.
func Attach(mnt *os.File, target string) error {
	if err := unix.MoveMount(int(mnt.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("%s: attach at %s: %w", mnt.Name(), target, err)
	}
	return nil
}

// says reads the messages that the kernel left in the context.
func (c *Config) says() string {
	var out []string
	buf := make([]byte, 4096)
	for range 16 {
		n, err := unix.Read(c.fd, buf)
		if err != nil || n <= 0 {
			break
		}
		out = append(out, strings.TrimSpace(string(buf[:n])))
	}
	if len(out) == 0 {
		return ""
	}
	return " (kernel: " + strings.Join(out, "; ") + ")"
}
