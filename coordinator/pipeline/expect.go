package pipeline

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The functions here turn a value into something of Go or report what is wrong
// with it. where is the subject of the sentence: "build job: tags".

// wrong reports a value of the wrong form.
func (p *parser) wrong(v *value, where, want string) {
	p.errorf(v.at, ValueType, "%s must be %s, not %s", where, want, v.what())
}

// str returns a non-empty string.
func (p *parser) str(v *value, where string) (string, bool) {
	switch {
	case v.kind == scalar && !v.isString():
		p.errorf(v.at, ValueType, "%s must be a string, and %s is none; quote it: %s", where, v.what(), strconv.Quote(v.text))
		return "", false
	case !v.isString():
		p.wrong(v, where, "a string")
		return "", false
	case strings.TrimSpace(v.text) == "":
		p.errorf(v.at, ValueInvalid, "%s can't be empty", where)
		return "", false
	}
	return v.text, p.printable(v, where)
}

// printable reports text that could not be shown in a list of names.
func (p *parser) printable(v *value, where string) bool {
	if strings.ContainsFunc(v.text, unicode.IsControl) {
		p.errorf(v.at, ValueInvalid, "%s contains a control character or a line break: %s", where, quote(v.text))
		return false
	}
	return true
}

// boolean returns a YAML 1.2 boolean: yes and on are strings.
func (p *parser) boolean(v *value, where string) (val, ok bool) {
	if v.kind != scalar || v.tag != "!!bool" {
		p.wrong(v, where, "true or false")
		return false, false
	}
	return strings.EqualFold(v.text, "true"), true
}

// integer returns a decimal number of at most most.
func (p *parser) integer(v *value, where string, least, most int) (int, bool) {
	if v.kind != scalar || v.tag != "!!int" {
		p.wrong(v, where, fmt.Sprintf("a number from %d to %d", least, most))
		return 0, false
	}
	n, err := strconv.Atoi(v.text)
	if err != nil || n < least || n > most {
		p.errorf(v.at, ValueInvalid, "%s must be a number from %d to %d, not %s", where, least, most, show(v.text))
		return 0, false
	}
	return n, true
}

// oneOf returns a word of a closed list. later are words for which we know what
// they mean but don't do it yet.
func (p *parser) oneOf(v *value, where string, words, later []string) (string, bool) {
	word, ok := p.str(v, where)
	switch {
	case !ok:
		return "", false
	case known(words, word):
		return word, true
	case known(later, word):
		p.errorf(v.at, Unsupported, "%s: %s is known, but not supported yet; use %s", where, word, orList(words))
	default:
		p.errorf(v.at, ValueInvalid, "%s must be %s, not %s%s", where, orList(words), quote(word), p.meant(word, words))
	}
	return "", false
}

// strs returns a list of strings. A single string is refused as GitLab does.
func (p *parser) strs(v *value, where string) ([]string, []*value) {
	if v.kind != list {
		if v.isString() {
			p.errorf(v.at, ValueType, "%s must be a list of strings; write [%s]", where, show(v.text))
		} else {
			p.wrong(v, where, "a list of strings")
		}
		return nil, nil
	}
	var out []string
	var from []*value
	for _, item := range v.items {
		if s, ok := p.str(item, where+": an entry"); ok {
			out = append(out, s)
			from = append(from, item)
		}
	}
	return out, from
}

// mappingKeys reports every key of d that is not among keys: a later one as not
// supported yet, others as unknown. It returns those that are fit for use.
func (p *parser) mappingKeys(d *value, where string, keys []string, later map[string]string) []entry {
	var good []entry
	for _, e := range d.entries {
		if e.val.kind == null {
			p.emptyKey(d, e, where)
			continue
		}
		if known(keys, e.key) {
			good = append(good, e)
			continue
		}
		if cure, ok := later[e.key]; ok {
			p.errorf(e.at, Unsupported, "%s: %s is known, but not supported yet; %s", where, e.key, cure)
			continue
		}
		all := append(slices.Clone(keys), slices.Sorted(maps.Keys(later))...)
		p.errorf(e.at, KeyUnknown, "%s: unknown key %s%s", where, show(e.key), p.meant(e.key, all))
	}
	return good
}

// emptyKey warns of a key without a value. In something composed it removes what
// was inherited, and that is how GitLab's documentation says to do it.
func (p *parser) emptyKey(d *value, e entry, where string) {
	if d.composed {
		return
	}
	cure := ""
	if e.key == "needs" {
		cure = "; write [] for a job that waits for nothing"
	}
	p.warnf(e.at, KeyEmpty, "%s: %s has no value and is taken as absent%s", where, show(e.key), cure)
}

// orList joins words: "a, b or c".
func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// shorten cuts a list that could be long, for a sentence.
func shorten(names []string) string {
	const most = 10
	shown := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		shown = append(shown, show(n))
	}
	s := strings.Join(shown, ", ")
	if len(names) > most {
		s += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return s
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) }
