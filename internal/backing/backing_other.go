//go:build !linux

package backing

import (
	"context"
	"errors"
)

var errLinux = errors.New("a backing file needs Linux")

// Ensure says that this is not Linux.
func Ensure(context.Context, Options) (Status, error) { return Status{}, errLinux }

// Release has nothing to do.
func Release(context.Context, string, string) error { return nil }

// Check says that this is not Linux.
func Check() error { return errLinux }
