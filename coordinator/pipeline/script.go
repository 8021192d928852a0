package pipeline

// maxNesting is how deep lists in a script may be nested, as in GitLab.
const maxNesting = 10

// script returns the lines of a script: a string, or a list of strings and of such
// lists. Lines are not split: one of them may have several lines of shell. A line
// that is a number or a boolean to YAML stands for its text: true is a command. A
// value that several jobs share is read once, and the result shared.
func (p *parser) script(v *value, where string) []string {
	if lines, ok := p.scripts[v]; ok {
		return lines
	}
	var lines []string
	switch {
	case v.kind == scalar:
		lines = p.line(lines, v, where)
	case v.kind == list:
		lines = p.flatten([]string{}, v, where, 1)
	default:
		p.wrong(v, where, "a string or a list of strings")
	}
	p.scripts[v] = lines
	return lines
}

func (p *parser) flatten(lines []string, v *value, where string, depth int) []string {
	if depth > maxNesting {
		p.errorf(v.at, ValueInvalid, "%s: lists may be nested %d levels deep", where, maxNesting)
		return lines
	}
	for _, item := range v.items {
		switch {
		case item.kind == list:
			lines = p.flatten(lines, item, where, depth+1)
		case item.kind == scalar:
			lines = p.line(lines, item, where)
		case item.kind == dict:
			p.errorf(item.at, ValueType, `%s: this line is a mapping to YAML because of the ": " in it; put the whole line in quotes`, where)
		default:
			p.errorf(item.at, ValueType, "%s: this line is empty; remove it", where)
		}
	}
	return lines
}

func (p *parser) line(lines []string, v *value, where string) []string {
	if hasNUL(v.text) {
		p.errorf(v.at, ValueInvalid, "%s: a line contains a NUL or is not UTF-8", where)
		return lines
	}
	return append(lines, v.text)
}

// blank reports whether no line of a script does anything.
func blank(lines []string) bool {
	for _, l := range lines {
		for _, r := range l {
			if r != ' ' && r != '\t' && r != '\n' && r != '\r' {
				return false
			}
		}
	}
	return true
}
