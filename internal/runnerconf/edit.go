package runnerconf

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Set gives a key of the file a value: a string, bool, int or list of strings.
func (f *File) Set(value any, path ...string) (*File, error) {
	return f.set(scope{first: 0, last: len(f.tables) - 1}, value, path)
}

// delete removes a key, or a table with all that is below it, if it is there.
func (f *File) delete(path ...string) (*File, error) {
	if f.get(path...) == nil {
		return f, nil
	}
	want := copyDoc(f.doc).(map[string]any)
	in, ok := get(want, path[:len(path)-1]).(map[string]any)
	if !ok {
		return nil, &ShapeError{dotted(path) + " is not where it should be"}
	}
	delete(in, path[len(path)-1])
	g := f
	for {
		cut, ok := g.find(path)
		if !ok {
			break
		}
		var err error
		if g, err = g.splice(cut, ""); err != nil {
			return nil, err
		}
	}
	return g.expect(want, "remove "+dotted(path))
}

// find gives the lines of the first thing that belongs to path.
func (f *File) find(path []string) (span, bool) {
	for _, t := range f.tables {
		if hasPrefix(t.path, path) && len(t.path) > 0 {
			return span{t.header.from, t.end()}, true
		}
		for _, k := range t.keys {
			if k.line.to > 0 && hasPrefix(slices.Concat(t.path, k.path), path) {
				return k.line, true
			}
		}
	}
	return span{}, false
}

// scope says which tables an edit is about, from first to last, and how many names of
// their paths are the scope's own.
type scope struct {
	first, last int
	prefix      []string
	// doc gives the scope's part of a document.
	doc func(map[string]any) map[string]any
}

// set is Set inside a scope.
func (f *File) set(s scope, value any, path []string) (*File, error) {
	want := copyDoc(f.doc).(map[string]any)
	in := want
	if s.doc != nil {
		in = s.doc(want)
	}
	if !put(in, path, value) {
		return nil, &ShapeError{fmt.Sprintf("%s is in the way of %s", dotted(path[:len(path)-1]), dotted(path))}
	}
	if reflect.DeepEqual(want, f.doc) {
		return f, nil
	}
	full := slices.Concat(s.prefix, path)
	g, err := f.splice(f.place(s, full, literal(value)))
	if err != nil {
		return nil, &ShapeError{"set " + dotted(full)}
	}
	return g.expect(want, "set "+dotted(full))
}

// place finds what has to be replaced by which text, so that path has the value.
func (f *File) place(s scope, path []string, value string) (span, string) {
	// The key is there: its value changes.
	for i := s.first; i <= s.last; i++ {
		for _, k := range f.tables[i].keys {
			if slices.Equal(slices.Concat(f.tables[i].path, k.path), path) {
				return k.value, value
			}
		}
	}
	name := bare(path[len(path)-1])
	parent := path[:len(path)-1]
	// Its table is written inline.
	for i := s.first; i <= s.last; i++ {
		for _, k := range f.tables[i].keys {
			if k.inline && slices.Equal(slices.Concat(f.tables[i].path, k.path), parent) {
				text := " " + name + " = " + value
				if inner := f.text[k.value.from+1 : k.value.to-1]; len(bytes.TrimSpace(inner)) > 0 {
					return span{k.value.from + 1, k.value.from + 1}, text + ","
				}
				return span{k.value.from + 1, k.value.to - 1}, text + " "
			}
		}
	}
	// Its table has a header of its own.
	for i := s.first; i <= s.last; i++ {
		if t := &f.tables[i]; slices.Equal(t.path, parent) {
			at := t.end()
			return span{at, at}, f.onOwnLine(at, f.keyIndent(t)+name+" = "+value)
		}
	}
	return f.placeTable(s, parent, name+" = "+value)
}

// placeTable finds where a table that is not there goes, and is its text with one key.
func (f *File) placeTable(s scope, path []string, key string) (span, string) {
	at, indent := 0, ""
	for i := s.first; i <= s.last; i++ {
		at = max(at, f.tables[i].end())
	}
	if i := s.last; i > s.first || len(s.prefix) > 0 {
		indent = f.indent(f.tables[i].header)
		if i == s.first {
			indent = f.keyIndent(&f.tables[i])
		}
	}
	names := make([]string, len(path))
	for i, p := range path {
		names[i] = bare(p)
	}
	text := f.onOwnLine(at, indent+"["+strings.Join(names, ".")+"]") + indent + "  " + key + f.eol
	if len(s.prefix) == 0 {
		text = f.eol + text
	}
	return span{at, at}, text
}

// onOwnLine makes text a line that begins at a line's end.
func (f *File) onOwnLine(at int, text string) string {
	text += f.eol
	if at > 0 && f.text[at-1] != '\n' {
		return f.eol + text
	}
	return text
}

// keyIndent is how far the keys of a table stand in.
func (f *File) keyIndent(t *table) string {
	for i := len(t.keys) - 1; i >= 0; i-- {
		if t.keys[i].line.to > 0 {
			return f.indent(t.keys[i].line)
		}
	}
	if len(t.path) == 0 {
		return ""
	}
	return f.indent(t.header) + "  "
}

// Insert puts a string at the beginning of a list of strings, which is made if it is
// not there. The other elements stay as they are.
func (s *entry) Insert(value string, path ...string) (*File, error) {
	return s.editList(path, func(k *key) (span, string) {
		at := k.value.from + 1
		if len(k.list) > 0 {
			return span{at, at}, quote(value) + ", "
		}
		return span{at, at}, quote(value)
	}, func(list []any) []any { return append([]any{value}, list...) })
}

// Replace gives element i of a list of strings another value.
func (s *entry) Replace(i int, value string, path ...string) (*File, error) {
	return s.editList(path, func(k *key) (span, string) { return k.list[i].at, quote(value) }, func(list []any) []any {
		list[i] = value
		return list
	})
}

func (s *entry) editList(path []string, where func(*key) (span, string), change func([]any) []any) (*File, error) {
	f, sc := s.f, s.scope()
	full := slices.Concat(sc.prefix, path)
	want := copyDoc(f.doc).(map[string]any)
	list, _ := get(sc.doc(want), path).([]any)
	if list == nil && get(sc.doc(want), path) == nil {
		list = change(nil)
		texts := make([]string, len(list))
		for i, v := range list {
			texts[i], _ = v.(string)
		}
		return f.set(sc, texts, path)
	}
	for i := sc.first; i <= sc.last; i++ {
		t := &f.tables[i]
		for j := range t.keys {
			k := &t.keys[j]
			if !k.array || !slices.Equal(slices.Concat(t.path, k.path), full) {
				continue
			}
			put(sc.doc(want), path, change(slices.Clone(list)))
			g, err := f.splice(where(k))
			if err != nil {
				return nil, err
			}
			return g.expect(want, "change "+dotted(full))
		}
	}
	return nil, &ShapeError{dotted(full) + " is not a list"}
}

// splice replaces a range of the text.
func (f *File) splice(s span, text string) (*File, error) {
	return Parse(slices.Concat(f.text[:s.from], []byte(text), f.text[s.to:]))
}

// expect returns f if it means what it should.
func (f *File) expect(want map[string]any, what string) (*File, error) {
	if !reflect.DeepEqual(f.doc, want) {
		return nil, &ShapeError{what}
	}
	return f, nil
}

// put sets a value, making tables on the way. It reports whether nothing was in the way.
func put(m map[string]any, path []string, value any) bool {
	for _, k := range path[:len(path)-1] {
		if m[k] == nil {
			m[k] = map[string]any{}
		}
		next, ok := m[k].(map[string]any)
		if !ok {
			return false
		}
		m = next
	}
	switch v := value.(type) {
	case int:
		value = int64(v)
	case []string:
		list := make([]any, len(v))
		for i := range v {
			list[i] = v[i]
		}
		value = list
	}
	m[path[len(path)-1]] = value
	return true
}

// copyDoc copies a decoded document; what is not a table or a list is never changed.
func copyDoc(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = copyDoc(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = copyDoc(e)
		}
		return out
	}
	return v
}

func hasPrefix(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.Equal(path[:len(prefix)], prefix)
}
