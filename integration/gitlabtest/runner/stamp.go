package runner

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// maxHeld is how much of a line without an end is kept back.
const maxHeld = 8 << 10

// stamper begins each line with its time and stream, as runners do by default since
// 19 ("FF_TIMESTAMPS"). Here it is off unless the flag is set, so that tests can look
// for lines.
type stamper struct {
	mu   sync.Mutex // over all: a program that outlives its stage may write too
	w    io.Writer
	held bytes.Buffer
	// more says that the next line goes on with the one before.
	more bool
}

func (s *stamper) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(b)
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			s.held.Write(b)
			if s.held.Len() >= maxHeld {
				return n, s.lineLocked(true)
			}
			return n, nil
		}
		s.held.Write(b[:i])
		b = b[i+1:]
		if err := s.lineLocked(false); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (s *stamper) lineLocked(more bool) error {
	mark := " "
	if s.more {
		mark = "+"
	}
	s.more = more
	out := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z") + " 00O" + mark + s.held.String() + "\n"
	s.held.Reset()
	_, err := io.WriteString(s.w, out)
	return err
}

// end writes what is left.
func (s *stamper) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.Len() > 0 {
		_ = s.lineLocked(false) // a log takes everything
	}
}
