package tree

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Exclude says which names a scan leaves out, with all that is below them. Nil leaves
// out nothing.
type Exclude struct {
	plain map[string]bool // names, wherever they lie
	rules []unwanted
}

// unwanted is a pattern that is more than a plain name.
type unwanted struct {
	glob
	name bool // of a name, wherever it lies; else of a path from the root
	dir  bool // of a directory alone
}

// NewExclude reads patterns as people know them from .gitignore: one without a slash is of
// a name wherever it lies, one with a slash is of a path from the root of the tree, one
// with a slash at its end is of a directory alone. They may have *, **, ?, [abc] and
// {a,b}. One that begins with ! is refused: nothing is brought back.
func NewExclude(patterns []string) (*Exclude, error) {
	x := &Exclude{plain: map[string]bool{}}
	for _, p := range patterns {
		if strings.HasPrefix(p, "!") {
			return nil, fmt.Errorf("pattern %q: what is left out can't be brought back (for a name that begins with !, write [!])", p)
		}
		bare := strings.TrimRight(p, "/")
		if p == "" {
			return nil, errors.New("an empty pattern")
		}
		var g glob // of everything
		if bare != "" {
			var err error
			if g, err = newGlob(bare); err != nil {
				return nil, fmt.Errorf("pattern %q: %w", p, doublestar.ErrBadPattern)
			}
		}
		r := unwanted{glob: g, name: !strings.Contains(bare, "/"), dir: bare != p}
		switch {
		case g.pattern == "":
			return nil, fmt.Errorf("pattern %q would leave out everything", p)
		case r.name && r.plain && !r.dir:
			x.plain[g.pattern] = true
		default:
			x.rules = append(x.rules, r)
		}
	}
	return x, nil
}

// matches reports whether r is of this name, which lies at path.
func (r *unwanted) matches(path, name string) bool {
	if r.name {
		path = name
	}
	return r.match(path)
}

// names lists those of directory rel that are not left out whatever they are.
func (x *Exclude) names(rel string, names []string) []string {
	if x == nil {
		return names
	}
	return slices.DeleteFunc(names, func(name string) bool {
		if x.plain[name] {
			return true
		}
		path := name
		if rel != "" && len(x.rules) > 0 {
			path = rel + "/" + name
		}
		return slices.ContainsFunc(x.rules, func(r unwanted) bool { return !r.dir && r.matches(path, name) })
	})
}

// dir reports whether a directory is left out because it is one.
func (x *Exclude) dir(path string) bool {
	if x == nil {
		return false
	}
	return slices.ContainsFunc(x.rules, func(r unwanted) bool { return r.dir && r.matches(path, nameOf(path)) })
}
