package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
)

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// state is the checksum of a file, "" if there is none.
func state(path string) (string, fs.FileInfo, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	fi, err := os.Stat(path)
	return sum(text), fi, err
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// writeFile writes a file with a mode and, where it can, the owner of another one.
func writeFile(path string, text []byte, mode fs.FileMode, like fs.FileInfo) error {
	return durable.WriteFile(path, mode, func(w io.Writer) error {
		if f, ok := w.(interface{ Chown(uid, gid int) error }); ok && like != nil {
			if uid, gid, known := owner(like); known && os.Geteuid() == 0 {
				if err := f.Chown(uid, gid); err != nil {
					return err
				}
			}
		}
		_, err := io.Copy(w, bytes.NewReader(text))
		return err
	})
}
