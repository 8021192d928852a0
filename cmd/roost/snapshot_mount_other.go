//go:build !linux

package main

import "errors"

func isMountPoint(string) bool { return false }

func unmountShown(string) error {
	return usageError(errors.New("nothing stays mounted on this system"), "")
}
