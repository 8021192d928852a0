package view

import (
	"fmt"
	"io"
	"os"

	"github.com/roost-ci/roost/snapshot"
)

// copyRun copies the content of e out of a bundle into f, an empty file.
func copyRun(f, bundle *os.File, e *snapshot.Entry, m *Meter) error {
	n, err := io.Copy(f, io.NewSectionReader(bundle, e.SourceAt, e.Size))
	m.Add(n)
	if err != nil {
		return err
	}
	if n < e.Size {
		return &snapshot.CorruptError{
			What: "file", Name: bundle.Name(),
			Why: fmt.Sprintf("shorter than %d bytes from %d on", e.Size, e.SourceAt),
		}
	}
	return nil
}
