package main

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lines collects what a command prints and waits for some of it.
type lines struct {
	mu   sync.Mutex // guards text and read
	text string
	read int
}

func newLines() *lines { return &lines{} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text += string(p)
	return len(p), nil
}

// wait gives the next whole line that has word in it.
func (l *lines) wait(t *testing.T, word string) string {
	t.Helper()
	var found string
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for {
			line, _, whole := strings.Cut(l.text[l.read:], "\n")
			if !whole {
				return false
			}
			if l.read += len(line) + 1; strings.Contains(line, word) {
				found = line
				return true
			}
		}
	}, time.Minute, 10*time.Millisecond, "no line with %q", word)
	return found
}
