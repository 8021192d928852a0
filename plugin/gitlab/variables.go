package gitlab

import (
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// variables edits a payload's list of variables. The last entry of a name wins.
type variables struct {
	list    []listed
	changed bool
}

// listed is an entry as it came, or as it goes.
type listed struct {
	raw        json.RawMessage
	key, value string
}

// variable is an entry of ours: raw, so that nothing in it is expanded.
type variable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
	Raw    bool   `json:"raw"`
	File   bool   `json:"file,omitempty"`
}

// readVariables takes the list apart. An entry that is no object has no name, and
// stays where it is.
func readVariables(raw json.RawMessage) (*variables, error) {
	list, err := parseList(raw)
	if err != nil {
		return nil, errors.New("variables: not a JSON array")
	}
	v := &variables{list: make([]listed, len(list), len(list)+16)}
	for i, raw := range list {
		v.list[i].raw = raw
		if o, err := parseObject(raw); err == nil {
			v.list[i].key, v.list[i].value = o.str("key"), o.str("value")
		}
	}
	return v, nil
}

// json is the list as it is now.
func (v *variables) json() json.RawMessage {
	list := make([]json.RawMessage, len(v.list))
	for i := range v.list {
		list[i] = v.list[i].raw
	}
	return joinList(list)
}

// value is what the job sets it to, unexpanded, and whether it does.
func (v *variables) value(key string) (string, bool) {
	for _, l := range slices.Backward(v.list) {
		if l.key == key {
			return l.value, true
		}
	}
	return "", false
}

// force sets it, whatever the job says.
func (v *variables) force(key, value string) { v.put(variable{Key: key, Value: value}) }

// addFile sets it to a file's content if the job says nothing.
func (v *variables) addFile(key, content string) {
	if _, theirs := v.value(key); !theirs {
		v.put(variable{Key: key, Value: content, File: true})
	}
}

func (v *variables) put(n variable) {
	n.Public, n.Raw = true, true
	v.list = slices.DeleteFunc(v.list, func(l listed) bool { return l.key == n.Key })
	v.list = append(v.list, listed{encode(n), n.Key, n.Value})
	v.changed = true
}

// maxGitConfig bounds the job's own GIT_CONFIG_COUNT.
const maxGitConfig = 1000

// gitConfig adds settings of git after the job's own, and leaves out those that the
// job has itself. If nobody can tell how many it has, because its count is no
// plain number, nothing is added: git would fail.
func (v *variables) gitConfig(settings [][2]string) {
	n := 0
	if count, theirs := v.value("GIT_CONFIG_COUNT"); theirs {
		var err error
		if n, err = strconv.Atoi(count); err != nil || n < 0 || n > maxGitConfig {
			return
		}
	}
	set := map[string]bool{}
	for _, l := range v.list {
		if i, ok := strings.CutPrefix(l.key, "GIT_CONFIG_KEY_"); ok {
			if i, err := strconv.Atoi(i); err == nil && i < n {
				set[strings.ToLower(l.value)] = true
			}
		}
	}
	for _, s := range settings {
		if set[strings.ToLower(s[0])] && s[0] != "safe.directory" { // that one is a list
			continue
		}
		v.force("GIT_CONFIG_KEY_"+strconv.Itoa(n), s[0])
		v.force("GIT_CONFIG_VALUE_"+strconv.Itoa(n), s[1])
		n++
	}
	v.force("GIT_CONFIG_COUNT", strconv.Itoa(n))
}

var envName = regexp.MustCompile(`^ROOST[A-Z0-9_]{0,60}$`)

// env sets what the agent wants the job to see. It names variables of Roost alone.
func (v *variables) env(env map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(env)) {
		if envName.MatchString(key) {
			v.force(key, env[key])
		}
	}
}
