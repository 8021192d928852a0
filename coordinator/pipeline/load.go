package pipeline

import (
	"go.yaml.in/yaml/v3"
)

// Bounds on a file. The largest real files known to us have 300 KiB and 3,000 jobs
// before rules; a bound that is met is a mistake or an attack.
const (
	maxBytes = 1 << 20
	maxDepth = 64
	// maxValues bounds the file after its aliases are expanded. Every value takes at
	// least two bytes of text, so only aliases can reach it much above 1 MiB/2.
	maxValues = 1 << 18
)

// loader turns YAML nodes into values. It works once on each node however often it
// is referred to, and adds up what the references would expand to.
type loader struct {
	*report
	done   map[*yaml.Node]*value
	active map[*yaml.Node]bool // being loaded: an alias to one of these is a loop
	spent  int                 // values so far, aliases expanded
	over   bool                // the bound was met and reported
}

// load returns the value of a node at a depth, never nil.
func (l *loader) load(n *yaml.Node, depth int) *value {
	at := pos{n.Line, n.Column}
	nothing := &value{kind: null, at: at, size: 1, height: 1}
	if n.Kind == yaml.AliasNode {
		return l.alias(n, depth)
	}
	if depth > maxDepth {
		l.errorf(at, YAMLDepth, "nested deeper than %d levels", maxDepth)
		return nothing
	}
	if !l.spend(at, 1, false) {
		return nothing
	}
	if n.Anchor != "" {
		l.active[n] = true
		defer delete(l.active, n)
	}
	v := l.node(n, at, depth)
	if n.Anchor != "" {
		l.done[n] = v
	}
	return v
}

func (l *loader) alias(n *yaml.Node, depth int) *value {
	at := pos{n.Line, n.Column}
	nothing := &value{kind: null, at: at, size: 1, height: 1}
	if n.Alias == nil || l.active[n.Alias] {
		l.errorf(at, YAMLAlias, "*%s stands inside the value that it names", show(n.Value))
		return nothing
	}
	v, ok := l.done[n.Alias]
	if !ok {
		// Anchors precede their aliases in the text, but a value that was dropped
		// (a duplicate key's) was not loaded.
		return l.load(n.Alias, depth)
	}
	if depth+v.height-1 > maxDepth {
		l.errorf(at, YAMLDepth, "nested deeper than %d levels by *%s", maxDepth, show(n.Value))
		return nothing
	}
	if !l.spend(at, v.size, true) {
		return nothing
	}
	return v
}

// spend accounts for n values and reports whether that is still within the bound.
func (l *loader) spend(at pos, n int, alias bool) bool {
	if l.over || n > maxValues-l.spent {
		if !l.over && alias {
			l.errorf(at, YAMLAlias, "aliases expand the file to more than %d values; refer to less", maxValues)
		} else if !l.over {
			l.errorf(at, YAMLSize, "the file has more than %d values; split the pipeline", maxValues)
		}
		l.over = true
		return false
	}
	l.spent += n
	return true
}

func (l *loader) node(n *yaml.Node, at pos, depth int) *value {
	l.checkTag(n, at)
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return &value{kind: null, at: at, size: 1, height: 1}
		}
		tag := n.Tag
		if tag == "!!merge" { // "<<" as a value is a string like any other
			tag = "!!str"
		}
		return &value{kind: scalar, at: at, tag: tag, text: n.Value, size: 1, height: 1}
	case yaml.SequenceNode:
		v := &value{kind: list, at: at, size: 1, height: 1}
		for _, c := range n.Content {
			item := l.load(c, depth+1)
			v.items = append(v.items, item)
			v.size += item.size
			v.height = max(v.height, item.height+1)
			if l.over {
				break
			}
		}
		return v
	case yaml.MappingNode:
		return l.mapping(n, at, depth)
	default:
		return &value{kind: null, at: at, size: 1, height: 1}
	}
}

// standardTags are what plain YAML resolves to. Everything else would be skipped
// in silence: we would see the value and not what the tag asks for.
var standardTags = map[string]bool{
	"!!str": true, "!!int": true, "!!float": true, "!!bool": true, "!!null": true,
	"!!timestamp": true, "!!merge": true, "!!seq": true, "!!map": true,
}

func (l *loader) checkTag(n *yaml.Node, at pos) {
	switch {
	case n.Tag == "!reference":
		l.errorf(at, Unsupported, "!reference is known, but not supported yet; use an anchor (&name, *name) or extends")
	case !standardTags[n.Tag]:
		l.errorf(at, YAMLTag, "unknown tag %s", show(n.Tag))
	case n.Style&yaml.TaggedStyle != 0 && n.Kind == yaml.ScalarNode && n.Tag != "!!str":
		// `!!int x`: the decoder would find out, we don't decode.
		l.errorf(at, YAMLTag, "the tag %s is not supported here; write the value without it", show(n.Tag))
	}
}
