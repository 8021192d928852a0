// Package runnerconf reads and edits GitLab Runner's configuration file, and other
// files in TOML, without touching what it was not asked to change: comments, unknown
// keys, order, indentation, line ends and everything else stay as they are, byte for
// byte. Each edit is checked: what the file means afterwards must be what it meant
// before with that one change. A file that is written in a way that an edit can't cope
// with is refused with a ShapeError, never guessed at.
package runnerconf

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxSize is more than any such file has.
const maxSize = 4 << 20

// ShapeError says that a file is valid and written in a way that can't be edited here.
type ShapeError struct {
	What string
}

func (e *ShapeError) Error() string {
	return "the file is written in a way that can't be edited safely: " + e.What
}

// span is a range of bytes of the text.
type span struct{ from, to int }

// key is a key with a value, wherever it stands.
type key struct {
	path  []string // from the table that it stands in
	value span
	line  span // its lines, with the last one's end; empty inside an inline table
	// list has the elements if the value is an array; inline says that it is an inline table.
	list   []element
	array  bool
	inline bool
}

// element is one value of an array.
type element struct {
	text string // of a string
	str  bool
	at   span
}

// table is a header and what stands below it. The first has no header.
type table struct {
	path   []string
	array  bool
	header span // its line
	keys   []key
}

// end is where the last line that means something ends.
func (t *table) end() int {
	end := t.header.to
	for _, k := range t.keys {
		end = max(end, k.line.to)
	}
	return end
}

// File is a parsed file. It does not change: an edit returns another one.
type File struct {
	text   []byte
	eol    string
	tables []table
	doc    map[string]any
}

// Parse reads the text of a file.
func Parse(text []byte) (*File, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("%d bytes: that is no configuration file", len(text))
	}
	f := &File{text: slices.Clip(bytes.Clone(text)), eol: "\n", tables: []table{{}}}
	if err := toml.Unmarshal(f.text, &f.doc); err != nil {
		return nil, explain(err)
	}
	if i := bytes.IndexByte(f.text, '\n'); i > 0 && f.text[i-1] == '\r' {
		f.eol = "\r\n"
	}
	var p unstable.Parser
	p.Reset(f.text)
	for p.NextExpression() {
		n := p.Expression()
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			path, at := keyPath(n)
			f.tables = append(f.tables, table{path: path, array: n.Kind == unstable.ArrayTable, header: f.lines(at)})
		case unstable.KeyValue:
			t := &f.tables[len(f.tables)-1]
			f.addKeys(t, n, nil, true)
		default:
		}
	}
	if err := p.Error(); err != nil {
		return nil, explain(err)
	}
	return f, nil
}

// explain says where an error is.
func explain(err error) error {
	var d *toml.DecodeError
	if errors.As(err, &d) {
		row, col := d.Position()
		return fmt.Errorf("not TOML: line %d, column %d: %w", row, col, err)
	}
	return fmt.Errorf("not TOML: %w", err)
}

// keyPath is a dotted key, and where it stands.
func keyPath(n *unstable.Node) (path []string, at span) {
	it := n.Key()
	for it.Next() {
		k := it.Node()
		if path == nil {
			at.from = int(k.Raw.Offset)
		}
		at.to = int(k.Raw.Offset + k.Raw.Length)
		path = append(path, string(k.Data))
	}
	return path, at
}

// addKeys records a key and, if its value is an inline table, the keys in there.
func (f *File) addKeys(t *table, n *unstable.Node, above []string, whole bool) {
	path, at := keyPath(n)
	k := key{path: slices.Concat(above, path)}
	k.value.to = int(n.Raw.Offset + n.Raw.Length)
	for k.value.to > at.to && blank(f.text[k.value.to-1]) {
		k.value.to--
	}
	k.value.from = at.to + bytes.IndexByte(f.text[at.to:], '=') + 1
	for blank(f.text[k.value.from]) {
		k.value.from++
	}
	if whole {
		k.line = f.lines(span{at.from, k.value.to})
	}
	v := n.Value()
	switch v.Kind {
	case unstable.Array:
		k.array = true
		it := v.Children()
		for it.Next() {
			e := it.Node()
			if e.Kind == unstable.Comment {
				continue
			}
			k.list = append(k.list, element{
				text: string(e.Data), str: e.Kind == unstable.String,
				at: span{int(e.Raw.Offset), int(e.Raw.Offset + e.Raw.Length)},
			})
		}
	case unstable.InlineTable:
		k.inline = true
	default:
	}
	t.keys = append(t.keys, k)
	if k.inline {
		it := v.Children()
		for it.Next() {
			if c := it.Node(); c.Kind == unstable.KeyValue {
				f.addKeys(t, c, k.path, false)
			}
		}
	}
}

func blank(b byte) bool { return b == ' ' || b == '\t' }

// lines are the whole lines that s touches, with the end of the last.
func (f *File) lines(s span) span {
	s.from = bytes.LastIndexByte(f.text[:s.from], '\n') + 1
	if i := bytes.IndexByte(f.text[s.to:], '\n'); i >= 0 {
		s.to += i + 1
	} else {
		s.to = len(f.text)
	}
	return s
}

// indent is the white space before a line's first character.
func (f *File) indent(line span) string {
	b := f.text[line.from:line.to]
	return string(b[:len(b)-len(bytes.TrimLeft(b, " \t"))])
}

// Bytes is the text.
func (f *File) Bytes() []byte { return bytes.Clone(f.text) }

// String is the text.
func (f *File) String() string { return string(f.text) }

// get gives the value of a key, as go-toml decodes it, or nil.
func (f *File) get(path ...string) any { return get(f.doc, path) }

func get(m map[string]any, path []string) any {
	var at any = m
	for _, k := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[k]
	}
	return at
}

// dotted is a path for people.
func dotted(path []string) string { return strings.Join(path, ".") }
