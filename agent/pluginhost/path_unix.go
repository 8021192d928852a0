//go:build unix

package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// checkPath resolves a path, link by link, and refuses it if anybody but root and
// this user could change where it leads.
func checkPath(path string) (string, error) {
	at, rest := "/", strings.Split(filepath.Clean(path), "/")
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		fi, err := os.Lstat(next)
		if err != nil {
			return "", err
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			if links++; links > 40 {
				return "", fmt.Errorf("%s: too many links", path)
			}
			to, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if err := ownerOurs(fi); err != nil {
				return "", fmt.Errorf("%s: %w", next, err)
			}
			if filepath.IsAbs(to) {
				at = "/"
			}
			rest = append(strings.Split(filepath.Clean(to), "/"), rest[1:]...)
			continue
		}
		if err := onlyOurs(fi); err != nil {
			return "", fmt.Errorf("%s: %w", next, err)
		}
		if len(rest) > 1 && !fi.IsDir() {
			return "", fmt.Errorf("%s: %w", next, errors.New("not a directory"))
		}
		at, rest = next, rest[1:]
	}
	return at, nil
}

func ownerOurs(fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner is unknown")
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: it belongs to user %d", ErrWritable, st.Uid)
	}
	return nil
}

// onlyOurs: owned by root or this user, and written to by nobody else. In a sticky directory,
// such as /tmp, others can't touch what is not theirs.
func onlyOurs(fi fs.FileInfo) error {
	if err := ownerOurs(fi); err != nil {
		return err
	}
	sticky := fi.IsDir() && fi.Mode()&fs.ModeSticky != 0
	if fi.Mode().Perm()&0o022 != 0 && !sticky {
		return fmt.Errorf("%w: its mode is %v", ErrWritable, fi.Mode())
	}
	return nil
}
