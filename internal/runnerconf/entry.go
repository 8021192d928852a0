package runnerconf

import (
	"bytes"
	"fmt"
	"slices"
)

// runners is the name of the list of tables.
const runners = "runners"

// entry is one [[runners]] of a file.
type entry struct {
	f     *File
	Index int
	first int // its header among the tables
	last  int // its last table
}

// entries are the [[runners]] of a file, in order.
func (f *File) entries() ([]*entry, error) {
	var out []*entry
	for i, t := range f.tables {
		switch {
		case t.array && slices.Equal(t.path, []string{runners}):
			out = append(out, &entry{f: f, Index: len(out), first: i, last: i})
		case len(out) > 0 && hasPrefix(t.path, []string{runners}):
			e := out[len(out)-1]
			if e.last != i-1 {
				return nil, &ShapeError{fmt.Sprintf("[%s] does not stand with the rest of its [[runners]]", dotted(t.path))}
			}
			e.last = i
		}
	}
	if list, _ := f.doc[runners].([]any); len(list) != len(out) || f.doc[runners] != nil && list == nil {
		return nil, &ShapeError{"runners is not written as [[runners]]"}
	}
	return out, nil
}

func (e *entry) scope() scope {
	return scope{first: e.first, last: e.last, prefix: []string{runners}, doc: func(m map[string]any) map[string]any {
		list, _ := m[runners].([]any)
		in, _ := list[e.Index].(map[string]any)
		return in
	}}
}

// Get gives the value of one of its keys, or nil.
func (e *entry) Get(path ...string) any { return get(e.scope().doc(e.f.doc), path) }

// Text is Get for a string; "" if it is none.
func (e *entry) Text(path ...string) string {
	s, _ := e.Get(path...).(string)
	return s
}

// Int is Get for an integer; 0 if it is none.
func (e *entry) Int(path ...string) int {
	n, _ := e.Get(path...).(int64)
	return int(n)
}

// List is Get for a list of strings.
func (e *entry) List(path ...string) []string {
	list, _ := e.Get(path...).([]any)
	var out []string
	for _, v := range list {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out
}

// Set gives one of its keys a value.
func (e *entry) Set(value any, path ...string) (*File, error) {
	return e.f.set(e.scope(), value, path)
}

// span is its text: from its header to the end of its last line that means something.
func (e *entry) span() span {
	s := span{from: e.f.tables[e.first].header.from}
	for i := e.first; i <= e.last; i++ {
		s.to = max(s.to, e.f.tables[i].end())
	}
	return s
}

// Repeat writes the entry out n times instead of once.
func (e *entry) Repeat(n int) (*File, error) {
	want := copyDoc(e.f.doc).(map[string]any)
	list := want[runners].([]any)
	s := e.span()
	text := string(e.f.text[s.from:s.to])
	lead := ""
	if !bytes.HasSuffix(e.f.text[:s.to], []byte("\n")) {
		lead = e.f.eol // the file ends without the end of its last line
	}
	var add string
	for range n - 1 {
		list = slices.Insert(list, e.Index, copyDoc(list[e.Index]))
		add += lead + e.f.eol + text
	}
	want[runners] = list
	g, err := e.f.splice(span{s.to, s.to}, add)
	if err != nil {
		return nil, &ShapeError{"repeat an entry"}
	}
	return g.expect(want, "repeat an entry")
}

// Remove takes the entry out and leaves lines of comment instead.
func (e *entry) Remove(comment ...string) (*File, error) {
	want := copyDoc(e.f.doc).(map[string]any)
	list := slices.Delete(want[runners].([]any), e.Index, e.Index+1)
	if want[runners] = list; len(list) == 0 {
		delete(want, runners)
	}
	g, err := e.f.splice(e.span(), e.comment(comment))
	if err != nil {
		return nil, &ShapeError{"remove an entry"}
	}
	return g.expect(want, "remove an entry")
}

// Comment puts lines of comment before the entry.
func (e *entry) Comment(lines ...string) (*File, error) {
	at := e.span().from
	g, err := e.f.splice(span{at, at}, e.comment(lines))
	if err != nil {
		return nil, &ShapeError{"comment an entry"}
	}
	return g.expect(e.f.doc, "comment an entry")
}

func (e *entry) comment(lines []string) string {
	indent, text := e.f.indent(e.f.tables[e.first].header), ""
	for _, l := range lines {
		text += indent + "# " + l + e.f.eol
	}
	return text
}
