package runnerconf

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

// variableRE is the beginning of an element of a list of variables.
var variableRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// Hide gives the text to be shown to people, without those secrets that can't be seen
// line by line: strings with escapes or quotes in them or over several lines, and what
// stands in an inline table. secret says by its name, in lower case, whether a key's
// value is one; of the elements of lists all are taken for secrets that look like
// NAME=VALUE. Strings that end with the next quote on their line are left to the caller.
func (f *File) Hide(secret func(key string) bool) []byte {
	type edit struct {
		at   span
		text string
	}
	var edits []edit
	for _, t := range f.tables {
		for _, k := range t.keys {
			for _, e := range k.list {
				if name := variableRE.FindString(e.text); e.str && name != "" && !f.plain(e.at) {
					edits = append(edits, edit{e.at, `"` + name + `***"`})
				}
			}
			name := strings.ToLower(k.path[len(k.path)-1])
			if quoted := bytes.IndexByte([]byte(`"'`), f.text[k.value.from]) >= 0; quoted && secret(name) && (k.line.to == 0 || !f.plain(k.value)) {
				edits = append(edits, edit{k.value, `"***"`})
			}
		}
	}
	out := bytes.Clone(f.text)
	slices.SortFunc(edits, func(a, b edit) int { return b.at.from - a.at.from })
	for _, e := range edits {
		out = slices.Replace(out, e.at.from, e.at.to, []byte(e.text)...)
	}
	return out
}

// plain reports whether a string is on one line and has no quote or escape in it.
func (f *File) plain(at span) bool {
	s := f.text[at.from:at.to]
	return len(s) >= 2 && !bytes.ContainsAny(s[1:len(s)-1], "\"'\\\n")
}
