//go:build !linux

package erofs

import (
	"errors"
	"os"
)

var errLinux = errors.New("erofs: needs Linux")

// Mount is for Linux.
func Mount(Method, string, []string, string) error { return errLinux }

// Detached is for Linux.
func Detached(Method, string, []string) (*os.File, error) { return nil, errLinux }

// Probe is for Linux.
func Probe(string) (Method, error) { return "", errLinux }
