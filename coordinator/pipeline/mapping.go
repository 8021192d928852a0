package pipeline

import (
	"go.yaml.in/yaml/v3"
)

// mapping loads a YAML mapping. Entries come in the order of the file, those of a
// merge key at its place. A key of the mapping itself wins over a merged one, an
// earlier mapping in a list of merged ones over a later one.
func (l *loader) mapping(n *yaml.Node, at pos, depth int) *value {
	names, own := l.ownKeys(n)
	merged := make(map[string]bool)
	composed := false
	var entries []entry
	for i := 0; i+1 < len(n.Content) && !l.over; i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		switch {
		case names[i/2] != "":
			entries = append(entries, entry{names[i/2], pos{key.Line, key.Column}, l.load(val, depth+1)})
		case isMerge(key) && !composed:
			composed = true
			for _, e := range l.merged(val, depth) {
				if own[e.key] == (pos{}) && !merged[e.key] {
					merged[e.key] = true
					entries = append(entries, e)
				}
			}
		}
	}
	d := newDict(at, entries)
	d.composed = composed
	return d
}

// ownKeys returns the key of each pair in n, "" for one that is not to be used: a
// merge key, a bad one, a repeated one. It reports the latter two.
func (l *loader) ownKeys(n *yaml.Node) (names []string, own map[string]pos) {
	names = make([]string, len(n.Content)/2)
	own = make(map[string]pos, len(names))
	var merge pos
	for i := range names {
		key := n.Content[2*i]
		at := pos{key.Line, key.Column}
		if isMerge(key) {
			if merge != (pos{}) {
				l.errorf(at, YAMLDuplicateKey, "the merge key << stands here twice, first on line %d; write <<: [*a, *b]", merge.line)
			}
			merge = at
			continue
		}
		name, ok := l.key(key)
		if !ok {
			continue
		}
		if first, ok := own[name]; ok {
			l.errorf(at, YAMLDuplicateKey, "the key %s stands here twice, first on line %d; YAML would drop one of them", show(name), first.line)
			continue
		}
		own[name] = at
		names[i] = name
	}
	return names, own
}

// key returns the text of a key. Numbers and dates are names as they are written.
func (l *loader) key(n *yaml.Node) (string, bool) {
	at := pos{n.Line, n.Column}
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		l.errorf(at, YAMLKey, "a key must be a word; this one is empty or a structure")
		return "", false
	}
	l.checkTag(n, at)
	return n.Value, true
}

func isMerge(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!merge" }

// merged returns the entries that a merge key brings in, which may repeat keys.
func (l *loader) merged(n *yaml.Node, depth int) []entry {
	// The merged entries take the place of entries at this depth.
	v := l.load(n, depth)
	switch v.kind {
	case dict:
		return v.entries
	case list:
		var all []entry
		for _, item := range v.items {
			if item.kind != dict {
				l.errorf(item.at, YAMLMerge, "<< merges mappings, and this is %s", item.what())
				continue
			}
			all = append(all, item.entries...)
		}
		return all
	default:
		l.errorf(pos{n.Line, n.Column}, YAMLMerge, "<< merges mappings, and this is %s", v.what())
		return nil
	}
}
