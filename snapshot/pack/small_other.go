//go:build !unix

package pack

import "time"

// smallReader reads many small files, one after the other.
type smallReader struct{}

func newSmallReader(time.Time) *smallReader { return &smallReader{} }

func (*smallReader) close() {}

// read fills p with the whole content at w. It says so if that changes meanwhile.
func (*smallReader) read(w where, p []byte) error { return readSlowly(w, p) }
