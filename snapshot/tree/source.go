package tree

import (
	"fmt"
	"io"
	"os"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/longpath"
)

// readSource returns the content of e from the regular file that has it. A fifo
// does not hold it up, and a symlink is not followed.
func readSource(e *snapshot.Entry) ([]byte, error) {
	var f *os.File
	err := longpath.Do(e.Source, func(path string) (err error) {
		f, err = os.OpenFile(path, os.O_RDONLY|openNoFollow, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || e.SourceAt == 0 && fi.Size() != e.Size {
		return nil, fmt.Errorf("%s: not the file of %d bytes that it was", e.Source, e.Size)
	}
	b := make([]byte, e.Size)
	_, err = io.ReadFull(io.NewSectionReader(f, e.SourceAt, e.Size), b)
	return b, err
}
