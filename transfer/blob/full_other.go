//go:build !linux && !darwin && !freebsd && !windows

package blob

func mapFull(err error) error { return err }

func (s *Dir) checkFree(int64) error { return nil }
