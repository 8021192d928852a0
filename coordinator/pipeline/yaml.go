package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// readYAML returns the one document in text, or nil after a report.
func readYAML(r *report, file string, text []byte) *value {
	if len(text) > maxBytes {
		r.errorf(pos{1, 1}, YAMLSize, "%s has %d bytes, and a pipeline file may have %d", show(file), len(text), maxBytes)
		return nil
	}
	lines := &lineReader{rest: text}
	first, more, err := decode(lines)
	if err != nil {
		reportSyntax(r, text, lines.line, err)
		return nil
	}
	if more != nil {
		r.errorf(pos{more.Line, more.Column}, YAMLDocuments,
			"a second YAML document begins here; a pipeline is one document (a header with spec: is known, but not supported yet)")
		return nil
	}
	if first == nil || len(first.Content) == 0 {
		r.errorf(pos{1, 1}, JobsEmpty, "%s is empty; a pipeline needs at least one job", show(file))
		return nil
	}
	l := &loader{report: r, done: make(map[*yaml.Node]*value), active: make(map[*yaml.Node]bool)}
	return l.load(first.Content[0], 1)
}

// decode reads up to two documents. The decoder is other people's code with
// "internal error" panics in it, and what it reads is not trusted: a panic there
// is one more syntax error.
func decode(r io.Reader) (first, more *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: %v", p)
		}
	}()
	d := yaml.NewDecoder(r)
	var one, two yaml.Node
	if err := d.Decode(&one); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil, nil
		}
		return nil, nil, err
	}
	switch err := d.Decode(&two); {
	case errors.Is(err, io.EOF):
		return &one, nil, nil
	case err != nil:
		return nil, nil, err
	}
	return &one, &two, nil
}

// lineReader hands out a line at a time and counts them. The decoder asks for more
// only when it has used up what it has, so the count tells where it gave up: its
// own messages name the line where the enclosing block began, if any.
type lineReader struct {
	rest []byte
	line int
}

func (r *lineReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	end := len(r.rest)
	if i := bytes.IndexByte(r.rest, '\n'); i >= 0 {
		end = i + 1
	}
	n := copy(p, r.rest[:end])
	if n == end {
		r.line++
	}
	r.rest = r.rest[n:]
	return n, nil
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

var inBlock = regexp.MustCompile(`^did not find expected (key$|'-'|',')`)

// cures maps words of the decoder to what people did to provoke them.
var cures = []struct{ word, cure string }{
	{"cannot start any token", "indent with spaces, not with tabs, and quote a value that begins with @, ` or %"},
	{"tab character", "indent with spaces"},
	{"mapping values are not allowed", "quote a value that contains \": \", and check the indentation"},
	{"did not find expected key", "check the indentation, and for a list item and a key side by side"},
	{"did not find expected '-' indicator", "check the indentation of this list"},
	{"could not find expected ':'", "a colon is missing, or the indentation is wrong"},
	{"did not find expected ',' or ']'", "close the bracket, or quote the value"},
	{"did not find expected ',' or '}'", "close the brace, or quote the value"},
	{"unexpected end of stream", "close the quote"},
	{"unknown anchor", "define it with & above its use"},
	{"did not find expected alphabetic", "quote a value that begins with * or &"},
	{"invalid UTF-8", "save the file as UTF-8"},
	{"control characters are not allowed", "remove the control character"},
	{"unknown escape character", "use single quotes, or double the backslash"},
}

// reportSyntax reports an error of the decoder, which had read so many lines.
func reportSyntax(r *report, text []byte, read int, err error) {
	words, began := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(words); m != nil {
		words = m[2]
		began, _ = strconv.Atoi(m[1])
	}
	at := pos{line: max(read, 1)}
	at.col = firstColumn(text, at.line)
	also := ""
	// For these the decoder counts from 0, and means the begin of the block.
	if inBlock.MatchString(words) && began+1 < at.line {
		also = fmt.Sprintf(", in what begins on line %d", began+1)
	}
	for _, c := range cures {
		if strings.Contains(words, c.word) {
			also += "; " + c.cure
			break
		}
	}
	r.errorf(at, YAMLSyntax, "not YAML: %s%s", words, also)
}

// firstColumn returns the column of the first character of a line that is no blank.
func firstColumn(text []byte, line int) int {
	for ; line > 1; line-- {
		i := bytes.IndexByte(text, '\n')
		if i < 0 {
			return 1
		}
		text = text[i+1:]
	}
	return len(text) - len(bytes.TrimLeft(text, " ")) + 1
}
