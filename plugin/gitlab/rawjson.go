package gitlab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// rawObject is a JSON object whose members keep their order and, where nobody
// sets them, their very bytes: numbers of any size, unknown members, escapes.
type rawObject []rawMember

type rawMember struct {
	name  string
	value json.RawMessage
}

var errNotObject = errors.New("not a JSON object")

func parseObject(b []byte) (rawObject, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('{') {
		return nil, errNotObject
	}
	var o rawObject
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, errNotObject
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		o = append(o, rawMember{name, v})
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return o, nil
}

// get returns the last value of that name in any case, which is what a reader in Go
// makes of it.
func (o rawObject) get(name string) json.RawMessage {
	for i := len(o) - 1; i >= 0; i-- {
		if strings.EqualFold(o[i].name, name) {
			return o[i].value
		}
	}
	return nil
}

// into decodes a member, if it is there and not null.
func (o rawObject) into(name string, v any) error {
	raw := o.get(name)
	if raw == nil {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: wrong type", name) // the decoder's own text may quote a value
	}
	return nil
}

// str is a member that is a string, else "".
func (o rawObject) str(name string) string {
	var s string
	if json.Unmarshal(o.get(name), &s) != nil {
		return ""
	}
	return s
}

// set replaces a member, whatever its case and however often it is there, or adds
// it at the end.
func (o *rawObject) set(name string, v any) {
	var out rawObject
	placed := false
	for _, m := range *o {
		if strings.EqualFold(m.name, name) {
			if placed {
				continue
			}
			m, placed = rawMember{name, encode(v)}, true
		}
		out = append(out, m)
	}
	if !placed {
		out = append(out, rawMember{name, encode(v)})
	}
	*o = out
}

// remove takes a member out.
func (o *rawObject) remove(name string) {
	*o = slices.DeleteFunc(slices.Clone(*o), func(m rawMember) bool { return strings.EqualFold(m.name, name) })
}

func (o rawObject) bytes() json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(encode(m.name))
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// encode writes our own values, which can always be written.
func encode(v any) json.RawMessage {
	switch v := v.(type) {
	case json.RawMessage:
		return v
	case rawObject:
		return v.bytes()
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("gitlab: %T can't be JSON: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// parseList splits a JSON array. null and absent are empty.
func parseList(raw json.RawMessage) ([]json.RawMessage, error) {
	if raw == nil {
		return nil, nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, errors.New("not a JSON array")
	}
	return list, nil
}

func joinList(list []json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, v := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(v)
	}
	b.WriteByte(']')
	return b.Bytes()
}
