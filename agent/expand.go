package agent

import (
	"maps"
	"slices"
	"strings"
)

// maxValue is the longest value that expansion makes: what Linux takes as one
// string of an environment, less room for the name.
const maxValue = 127 << 10

// expand puts a job's variables into env, which holds those that we set, as GitLab
// does it: $NAME and ${NAME} are replaced by the values of variables, whose own
// references count too; $$ is a dollar sign. What stays as written: a name that is
// no variable, a reference in a circle, a whole value that would be too long. The
// values that we set are never expanded, and reserved names keep them.
func expand(env, vars map[string]string) {
	x := expander{set: maps.Clone(env), vars: vars, done: map[string]string{}, open: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(vars)) { // sorted, for what is in a circle
		if !reserved(name) {
			env[name] = x.variable(name)
		}
	}
}

// reserved tells what a job must not change: where it is, and what it is told of
// its workspace.
func reserved(name string) bool {
	return name == "CI_PROJECT_DIR" || name == "ROOST" || strings.HasPrefix(name, "ROOST_")
}

type expander struct {
	set, vars map[string]string
	done      map[string]string // vars, expanded: each is done once, however often it is named
	open      map[string]bool   // those that are being expanded
}

// variable is the value of one of vars.
func (x *expander) variable(name string) string {
	if v, ok := x.done[name]; ok {
		return v
	}
	x.open[name] = true
	defer delete(x.open, name)
	text := x.vars[name]
	v, ok := x.text(text)
	if !ok {
		v = text
	}
	x.done[name] = v
	return v
}

// text expands a value. It reports whether the result is short enough.
func (x *expander) text(s string) (string, bool) {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || b.Len() > maxValue {
			break
		}
		b.WriteString(s[:i])
		name, n := reference(s[i:])
		switch v, ok := x.lookup(name); {
		case name == "$":
			b.WriteByte('$')
		case ok:
			b.WriteString(v)
		default:
			b.WriteString(s[i : i+n])
		}
		s = s[i+n:]
	}
	b.WriteString(s)
	return b.String(), b.Len() <= maxValue
}

func (x *expander) lookup(name string) (string, bool) {
	if _, ok := x.vars[name]; ok && !reserved(name) {
		if x.open[name] {
			return "", false
		}
		return x.variable(name), true
	}
	v, ok := x.set[name]
	return v, ok
}

// reference reads what the dollar sign at the start of s begins: the name in $NAME
// or ${NAME}, "$" of $$, or "" of a dollar sign alone; and how long it is.
func reference(s string) (name string, n int) {
	switch {
	case strings.HasPrefix(s, "$$"):
		return "$", 2
	case strings.HasPrefix(s, "${"):
		if n := nameLen(s[2:]); n > 0 && strings.HasPrefix(s[2+n:], "}") {
			return s[2 : 2+n], n + 3
		}
		return "", 1
	}
	n = nameLen(s[1:])
	return s[1 : 1+n], 1 + n
}

// nameLen is the length of the variable's name at the start of s, or 0.
func nameLen(s string) int {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}
