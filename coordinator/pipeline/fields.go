package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

func (p *parser) tags(v *value, where string) []string {
	if v.kind == list && len(v.items) > maxTags {
		p.errorf(v.at, ValueInvalid, "%s: at most %d are allowed, and there are %d", where, maxTags, len(v.items))
		return nil
	}
	words, from := p.strs(v, where)
	for i, w := range words {
		if strings.Contains(w, "$") {
			p.errorf(from[i].at, Unsupported, "%s: variables in tags are known, but not supported yet: %s", where, quote(w))
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}

func (p *parser) timeout(j *job, v *value, where string) {
	if v.kind == scalar && v.tag == "!!int" {
		p.errorf(v.at, ValueType, "%s: %s has no unit; write %s minutes or %s seconds", where, show(v.text), show(v.text), show(v.text))
		return
	}
	text, ok := p.str(v, where)
	if !ok {
		return
	}
	d, err := parseDuration(text)
	if err != nil {
		p.errorf(v.at, ValueInvalid, "%s: %v", where, err)
		return
	}
	j.spec.TimeoutMS = d.Milliseconds()
}

// allowFailure reads true, false, or {exit_codes: 1} or {exit_codes: [1, 2]}.
func (p *parser) allowFailure(v *value, where string) AllowFailure {
	if v.kind != dict {
		if v.kind != scalar || v.tag != "!!bool" {
			p.wrong(v, where, "true, false or {exit_codes: [...]}")
			return AllowFailure{}
		}
		yes, _ := p.boolean(v, where)
		return AllowFailure{Any: yes}
	}
	var a AllowFailure
	entries := p.mappingKeys(v, where, []string{"exit_codes"}, nil)
	for _, e := range entries {
		where := where + ": exit_codes"
		items := []*value{e.val}
		if e.val.kind == list {
			items = e.val.items
		}
		if len(items) == 0 || len(items) > 255 {
			p.errorf(e.val.at, ValueInvalid, "%s: must be one to 255 numbers", where)
			continue
		}
		for _, item := range items {
			if code, ok := p.integer(item, where, 1, 255); ok {
				a.Codes = append(a.Codes, code)
			}
		}
	}
	if len(entries) == 0 {
		p.errorf(v.at, ValueInvalid, "%s must be true, false or {exit_codes: [...]}; this mapping has no exit_codes", where)
	}
	slices.Sort(a.Codes)
	a.Codes = slices.Compact(a.Codes)
	return a
}

// retry reads a number, or {max: 2} with when: always, which is the default.
func (p *parser) retry(v *value, where string) int {
	const most = 2 // as in GitLab
	if v.kind != dict {
		n, _ := p.integer(v, where, 0, most)
		return n
	}
	n := 0
	for _, e := range p.mappingKeys(v, where, retryKeys, retryLater) {
		if e.key == "max" {
			n, _ = p.integer(e.val, where+": max", 0, most)
			continue
		}
		causes := []*value{e.val}
		if e.val.kind == list {
			causes = e.val.items
		}
		for _, c := range causes {
			if word, ok := p.str(c, where+": when"); ok && word != "always" {
				p.errorf(c.at, Unsupported, "%s: when: %s is known, but not supported yet; every failure is tried again", where, show(word))
			}
		}
	}
	return n
}

// parallel reads the number of instances of a job.
func (p *parser) parallel(j *job, v *value, where string) {
	if v.kind == dict {
		for _, e := range v.entries {
			if e.key == "matrix" {
				p.errorf(e.at, Unsupported, "%s: matrix is known, but not supported yet; use a number, or write the jobs", where)
				return
			}
		}
	}
	if v.kind == scalar && v.tag == "!!int" && v.text == "1" {
		p.errorf(v.at, ValueInvalid, "%s must be a number from 2 to %d; for one job remove it", where, maxParallel)
		return
	}
	j.total, _ = p.integer(v, where, 2, maxParallel)
}

// instanceName is the name of instance i of n, from 1.
func instanceName(base string, i, n int) string { return fmt.Sprintf("%s %d/%d", base, i, n) }
