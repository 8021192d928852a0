package tree

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// glob is a doublestar pattern of paths relative to the root of a tree. What it
// matches stands for itself and all below it, so x, x/, x/** and x/**/* say the
// same of a directory x.
type glob struct {
	pattern string
	plain   bool // no meta characters: a path
}

func newGlob(s string) (glob, error) {
	p := strings.TrimPrefix(strings.TrimPrefix(s, "./"), "/")
	if s == "" {
		return glob{}, fmt.Errorf("an empty glob")
	}
	for {
		cut := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(p, "/"), "/*"), "/**")
		if strings.HasSuffix(p, "/*") && !strings.HasSuffix(p, "/**/*") {
			cut = p // x/* means each child for itself
		}
		if cut == p {
			break
		}
		p = cut
	}
	if p == "**" || p == "." {
		p = ""
	}
	if !doublestar.ValidatePattern(p) {
		return glob{}, fmt.Errorf("glob %q: %w", s, doublestar.ErrBadPattern)
	}
	return glob{pattern: p, plain: !strings.ContainsAny(p, `*?[{\`)}, nil
}

func newGlobs(what string, list []string) ([]glob, error) {
	var out []glob
	for _, s := range list {
		g, err := newGlob(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		out = append(out, g)
	}
	return out, nil
}

// match reports whether g matches path itself.
func (g glob) match(path string) bool {
	if g.plain {
		return g.pattern == path
	}
	return doublestar.MatchUnvalidated(g.pattern, path)
}

// covers reports whether g matches path or a directory that it lies in.
func (g glob) covers(path string) bool {
	for {
		if g.match(path) {
			return true
		}
		if path == "" {
			return false
		}
		path = parentOf(path)
	}
}

func anyMatch(gs []glob, path string) bool {
	for _, g := range gs {
		if g.match(path) {
			return true
		}
	}
	return false
}
