package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/roost-ci/roost/snapshot/tree"
)

// leftOut is what people don't want in a snapshot.
type leftOut struct {
	patterns, files []string
}

// read returns what that comes to; nil: nothing is left out.
func (l *leftOut) read() (*tree.Exclude, error) {
	if len(l.patterns)+len(l.files) == 0 {
		return nil, nil //nolint:nilnil // as promised
	}
	all := l.patterns
	for _, name := range l.files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, usageError(fmt.Errorf("--exclude-from: %w", err), "")
		}
		for line := range bytes.Lines(text) {
			line = bytes.TrimRight(line, "\r\n")
			if len(line) > 0 && line[0] != '#' {
				all = append(all, string(line))
			}
		}
	}
	x, err := tree.NewExclude(all)
	if err != nil {
		return nil, usageError(fmt.Errorf("--exclude: %w", err), "as in .gitignore: roost snapshot create --help")
	}
	return x, nil
}
