//go:build !linux

package erofs

import (
	"context"
	"errors"
	"os"
)

var errLinux = errors.New("erofs: needs Linux")

// Mount is for Linux.
func Mount(Method, string, []string, string) error { return errLinux }

// Detached is for Linux.
func Detached(Method, string, []string) (*os.File, error) { return nil, errLinux }

// Probe is for Linux.
func Probe(context.Context, string) (Method, error) { return "", errLinux }
