package pack

import (
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// where is a place to read a file's content: a whole file, or a run in a bundle.
type where struct {
	path  string
	at    int64
	ctime int64 // that the file has if nobody has written to it; 0 and less: not known
}

func whereIs(e *snapshot.Entry) where { return where{path: e.Source, at: e.SourceAt} }

// errOther says that somebody wrote to a file since it was looked at.
func (w where) errOther() error { return fmt.Errorf("%s: changed since it was looked at", w.path) }

// check reports whether a file of whole bytes can have size bytes there.
func (w where) check(whole, size int64) error {
	if w.at == 0 && whole != size {
		return fmt.Errorf("%s: has %d bytes and should have %d", w.path, whole, size)
	}
	if w.at < 0 || w.at > 0 && (w.at > whole || size > whole-w.at) {
		return fmt.Errorf("%s: has %d bytes, not %d from %d on", w.path, whole, size, w.at)
	}
	return nil
}

// opened looks at what was just opened at w, and closes it if it is something else.
func opened(s *source, w where) (_ *source, err error) {
	if s.whole, s.mtime, err = s.stat(); err == nil {
		err = w.check(s.whole, s.size)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
