//go:build !unix

package view

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// Empty deletes all that is in dir.
func Empty(_ context.Context, dir, _ string, _ Options) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, n.Name())))
	}
	return errors.Join(errs...)
}
