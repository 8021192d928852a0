package pipeline

import "strings"

const (
	// maxLevels is how many levels of extends a job may have, itself included, as in
	// GitLab.
	maxLevels = 11
	// maxMerges bounds the entries that extends compares in all: a hundred jobs that
	// extend a hundred long templates are a hundred times the file.
	maxMerges = 1 << 19
)

// template is a job or a hidden job with its extends followed.
type template struct {
	val    *value // a dict
	levels int
}

// resolve returns the job or hidden job of that name with all that it extends
// merged in, or nil if there is none or it is no mapping. path are the names on
// the way here.
func (p *parser) resolve(name string, path []string) *template {
	if t, ok := p.templates[name]; ok {
		return t
	}
	e, ok := p.root.lookup(name)
	if !ok || e.val.kind != dict {
		return nil
	}
	t := &template{val: e.val, levels: 1}
	ext, ok := e.val.lookup("extends")
	if ok && ext.val.kind != null {
		path = append(path, name)
		p.pending[name] = true
		t = p.extend(name, e.val, ext.val, path)
		delete(p.pending, name)
	}
	p.templates[name] = t
	return t
}

// extend merges all that name extends, the later over the earlier, and name's own
// keys over them.
func (p *parser) extend(name string, own, ext *value, path []string) *template {
	t := &template{levels: 1}
	var merged *value
	for _, base := range p.bases(name, ext) {
		if p.pending[base.text] {
			p.reportCycle(base, path)
			continue
		}
		b := p.resolve(base.text, path)
		if b == nil {
			p.unknownBase(name, base)
			continue
		}
		t.levels = max(t.levels, b.levels+1)
		merged = p.merge(merged, b.val, base.at)
	}
	if t.levels == maxLevels+1 { // those above it are not told again
		p.errorf(ext.at, ExtendsDepth, "%s job: extends %d levels deep; at most %d are allowed", show(name), t.levels, maxLevels)
	}
	t.val = p.merge(merged, own, ext.at)
	return t
}

// bases returns the strings in the value of extends.
func (p *parser) bases(name string, ext *value) []*value {
	where := show(name) + " job: extends"
	if ext.kind == list {
		_, from := p.strs(ext, where)
		return from
	}
	if !ext.isString() {
		p.wrong(ext, where, "the name of a job or a list of names")
		return nil
	}
	if _, ok := p.str(ext, where); !ok {
		return nil
	}
	return []*value{ext}
}

func (p *parser) unknownBase(name string, base *value) {
	if e, ok := p.root.lookup(base.text); ok {
		p.errorf(base.at, ExtendsUnknown, "%s job: extends %s, which is %s and no job", show(name), show(base.text), e.val.what())
		return
	}
	p.errorf(base.at, ExtendsUnknown, "%s job: extends unknown job %s%s", show(name), quote(base.text), p.meant(base.text, p.root.keys()))
}

func (p *parser) reportCycle(base *value, path []string) {
	from := 0
	for i, n := range path {
		if n == base.text {
			from = i
		}
	}
	loop := make([]string, 0, len(path)+1-from)
	for _, n := range append(path[from:len(path):len(path)], base.text) {
		loop = append(loop, show(n))
	}
	p.errorf(base.at, ExtendsCycle, "circular dependency in extends: %s", strings.Join(loop, " -> "))
}

// merge lays over on top of base, mapping by mapping; everything else is replaced
// as a whole. A null stays in the result: it removes the key from what is below.
// at is where to report that it was too much.
func (p *parser) merge(base, over *value, at pos) *value {
	if base == nil {
		return over
	}
	if base.kind != dict || over.kind != dict || base == over {
		return over
	}
	p.merges += len(base.entries) + len(over.entries)
	if p.merges > maxMerges {
		p.errorf(at, ExtendsSize, "extends merges more than %d keys in all; extend less", maxMerges)
		return over
	}
	entries := make([]entry, 0, len(base.entries)+len(over.entries))
	for _, e := range base.entries {
		if o, ok := over.lookup(e.key); ok {
			o.val = p.merge(e.val, o.val, at)
			e = o
		}
		entries = append(entries, e)
	}
	for _, e := range over.entries {
		if _, ok := base.lookup(e.key); !ok {
			entries = append(entries, e)
		}
	}
	d := newDict(over.at, entries)
	d.composed = true
	return d
}
