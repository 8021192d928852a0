package tree

import (
	"fmt"
	"io"
	"os"
)

// readSource returns the size bytes of the regular file at path. A fifo does not
// hold it up, and a symlink is not followed.
func readSource(path string, size int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNoFollow, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() != size {
		return nil, fmt.Errorf("%s: not the file of %d bytes that it was", path, size)
	}
	b := make([]byte, size)
	_, err = io.ReadFull(f, b)
	return b, err
}
