package pipeline

// kind is the form of a value.
type kind uint8

const (
	null kind = iota
	scalar
	list
	dict
)

// value is a YAML node with aliases and merge keys resolved. Values are shared (by
// aliases, by extends) and never changed once made.
type value struct {
	kind kind
	at   pos
	// tag is the short tag of a scalar (!!str, !!int, …), text its text as written.
	tag, text string
	items     []*value
	entries   []entry
	index     map[string]int // of entries; nil while there are few
	// composed says that a dict took some of its entries from elsewhere, so that a
	// null in it may stand for "remove what was inherited".
	composed bool

	// size counts this value and all below it, aliases expanded; height is how many
	// levels there are, 1 for a scalar. Both are bounded by load.
	size, height int
}

// entry is one key of a dict. at is where the key stands.
type entry struct {
	key string
	at  pos
	val *value
}

// fewEntries is up to how many entries a search along the slice is cheaper than a map.
const fewEntries = 8

// newDict makes a dict of entries whose keys are distinct.
func newDict(at pos, entries []entry) *value {
	d := &value{kind: dict, at: at, entries: entries, size: 1, height: 1}
	if len(entries) > fewEntries {
		d.index = make(map[string]int, len(entries))
	}
	for i, e := range entries {
		if d.index != nil {
			d.index[e.key] = i
		}
		d.size += e.val.size
		d.height = max(d.height, e.val.height+1)
	}
	return d
}

// lookup returns the entry of that key. A key whose value is null is found.
func (v *value) lookup(key string) (entry, bool) {
	if v.index != nil {
		i, ok := v.index[key]
		if !ok {
			return entry{}, false
		}
		return v.entries[i], true
	}
	for _, e := range v.entries {
		if e.key == key {
			return e, true
		}
	}
	return entry{}, false
}

// get returns the value of a key, or nil if it is absent or null.
func (v *value) get(key string) *value {
	if v == nil {
		return nil
	}
	e, ok := v.lookup(key)
	if !ok || e.val.kind == null {
		return nil
	}
	return e.val
}

// keys returns the keys in order.
func (v *value) keys() []string {
	if v == nil {
		return nil
	}
	keys := make([]string, len(v.entries))
	for i, e := range v.entries {
		keys[i] = e.key
	}
	return keys
}

func (v *value) isString() bool { return v.kind == scalar && v.tag == "!!str" }

// what names the form of a value in messages.
func (v *value) what() string {
	switch v.kind {
	case null:
		return "nothing"
	case list:
		return "a list"
	case dict:
		return "a mapping"
	default: // a scalar, by its tag
	}
	switch v.tag {
	case "!!int", "!!float":
		return "the number " + show(v.text)
	case "!!bool":
		return "the boolean " + show(v.text)
	case "!!timestamp":
		return "the date " + show(v.text)
	default:
		return quote(v.text)
	}
}
