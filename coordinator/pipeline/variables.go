package pipeline

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// maxVariable is what Linux takes as one string of a process's environment, name
// and value and the two bytes between and behind.
const maxVariable = 128 << 10

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

var variableKeys = []string{"value", "description", "options", "expand"}

// variables reads a mapping of variables; v may be nil. In the result a dollar
// sign begins a reference and two are one: what is not to be expanded is doubled.
func (p *parser) variables(v *value, where string) map[string]string {
	if v == nil {
		return nil
	}
	if v.kind != dict {
		p.wrong(v, where, "a mapping of names to values")
		return nil
	}
	vars := make(map[string]string, len(v.entries))
	for _, e := range v.entries {
		if !variableName.MatchString(e.key) {
			p.errorf(e.at, VariableName, "%s: %s can't name a variable; use letters, digits and _, no digit first", where, quote(e.key))
			continue
		}
		if e.val.kind == null {
			if !v.composed {
				p.errorf(e.at, ValueType, `%s: %s has no value; write "" for an empty one`, where, show(e.key))
			}
			continue
		}
		text, literal, ok := p.variable(e.val, where+": "+show(e.key))
		if !ok || !p.environ(e.val.at, where, e.key, text) {
			continue
		}
		p.special(e.val.at, where+": "+e.key, e.key, text)
		if !literal && namesItself(e.key, text) {
			p.warnf(e.val.at, VariableSelf, "%s: %s refers to itself, which stays as written; let before_script export it, where the shell knows its value before", where, e.key)
		}
		if literal {
			text = strings.ReplaceAll(text, "$", "$$")
		}
		vars[e.key] = text
	}
	return vars
}

// variable reads one value: a string, a number or a boolean as it is written, or
// a mapping with the key value. A literal one says that it is not to be expanded.
func (p *parser) variable(v *value, where string) (text string, literal, ok bool) {
	if v.kind != dict {
		text, ok = p.variableText(v, where)
		return text, false, ok
	}
	found := false
	var options *value
	for _, e := range p.mappingKeys(v, where, variableKeys, nil) {
		switch e.key {
		case "value":
			text, found = p.variableText(e.val, where+": value")
			if !found {
				return "", false, false
			}
		case "description":
			p.str(e.val, where+": description")
		case "options":
			options = e.val
		case "expand":
			yes, ok := p.boolean(e.val, where+": expand")
			literal = ok && !yes
		}
	}
	if options != nil {
		if words, _ := p.strs(options, where+": options"); found && len(words) > 0 && !slices.Contains(words, text) {
			p.errorf(options.at, ValueInvalid, "%s: the value %s is not among its options: %s", where, quote(text), shorten(words))
		}
	}
	// Without a value it is an empty string, as a form that nobody filled in.
	return text, literal, true
}

func (p *parser) variableText(v *value, where string) (string, bool) {
	if v.kind != scalar {
		p.wrong(v, where, "a string, a number or a boolean")
		return "", false
	}
	if v.tag == "!!bool" {
		if yes, _ := p.boolean(v, where); yes {
			return "true", true
		}
		return "false", true
	}
	return v.text, true
}

// gitStrategies are the values of GIT_STRATEGY that we do. Both fetch and clone
// leave the commit checked out; neither throws away what was inherited.
var gitStrategies = []string{"fetch", "clone", "none"}

// ignored are variables by which GitLab's runner changes what a job finds, and
// which have no effect here.
var ignored = []string{"GIT_SUBMODULE_STRATEGY", "GIT_CHECKOUT", "GIT_CLONE_PATH", "GIT_CLEAN_FLAGS", "GIT_FETCH_EXTRA_FLAGS"}

// special checks the variables that are addressed to us and not to the script.
func (p *parser) special(at pos, where, name, text string) {
	switch {
	case reservedVariable(name):
		p.warnf(at, VariableReserved, "%s is set by Roost for each job, this value has no effect", where)
	case name == "GIT_STRATEGY" && text == "empty":
		p.errorf(at, Unsupported, "%s: empty is known, but not supported yet; use none and workspace: {inherit: none}", where)
	case name == "GIT_STRATEGY" && !known(gitStrategies, text):
		p.errorf(at, ValueInvalid, "%s must be %s, not %s%s", where, orList(gitStrategies), quote(text), p.meant(text, gitStrategies))
	case known(ignored, name) && text != "" && text != "none" && !(name == "GIT_CHECKOUT" && text == "true"):
		p.warnf(at, Unsupported, "%s is known, but not supported yet, and has no effect on the checkout; do it in before_script", where)
	}
}

// namesItself reports whether a value has a reference to its own variable.
func namesItself(name, text string) bool {
	for _, ref := range variableReference.FindAllStringSubmatch(text, -1) {
		if ref[1] == name || ref[2] == name {
			return true
		}
	}
	return false
}

// variableReference is what is expanded in a value; two dollars are no reference.
var variableReference = regexp.MustCompile(`\$\$|\$([A-Za-z_][A-Za-z0-9_]*)|\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// reservedVariable tells what a job can't have another value of: where it is, and
// what it is told of its workspace. The agent holds the same rule.
func reservedVariable(name string) bool {
	return name == "CI_PROJECT_DIR" || name == "ROOST" || strings.HasPrefix(name, "ROOST_")
}

// environ reports what can't stand in the environment of a process.
func (p *parser) environ(at pos, where, name, text string) bool {
	switch {
	case hasNUL(text):
		p.errorf(at, ValueInvalid, "%s: %s contains a NUL or is not UTF-8", where, show(name))
		return false
	case len(name)+len(text)+2 > maxVariable:
		p.errorf(at, VariableSize, "%s: %s is longer than the %d bytes that a process's environment takes; put it into a file", where, show(name), maxVariable)
		return false
	}
	return true
}

// request checks the variables of the request, which have no place in the file.
func (p *parser) request() {
	for _, name := range slices.Sorted(maps.Keys(p.opts.Variables)) {
		if !variableName.MatchString(name) {
			p.errorf(pos{1, 1}, VariableName, "the request: %s can't name a variable; use letters, digits and _, no digit first", quote(name))
			continue
		}
		if p.environ(pos{1, 1}, "the request", name, p.opts.Variables[name]) && reservedVariable(name) {
			p.warnf(pos{1, 1}, VariableReserved, "the request: %s is set by Roost for each job, this value has no effect", name)
		}
	}
}

// overlay returns the union of maps, the later winning. It returns the only one
// that has entries as it is.
func overlay(layers ...map[string]string) map[string]string {
	var out map[string]string
	owned := false
	for _, m := range layers {
		switch {
		case len(m) == 0:
		case out == nil:
			out = m
		default:
			if !owned {
				out, owned = maps.Clone(out), true
			}
			maps.Copy(out, m)
		}
	}
	return out
}
