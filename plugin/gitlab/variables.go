package gitlab

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
)

// variables edits a payload's list of variables. The last entry of a name wins.
type variables struct {
	list    []json.RawMessage
	changed bool
}

// variable is an entry of ours: raw, so that nothing in it is expanded.
type variable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
	Raw    bool   `json:"raw"`
	File   bool   `json:"file,omitempty"`
}

func variableKey(raw json.RawMessage) string {
	o, err := parseObject(raw)
	if err != nil {
		return ""
	}
	return o.str("key")
}

// has reports whether the job sets it.
func (v *variables) has(key string) bool {
	return slices.ContainsFunc(v.list, func(raw json.RawMessage) bool { return variableKey(raw) == key })
}

// value is what the job sets it to, unexpanded.
func (v *variables) value(key string) string {
	for _, raw := range slices.Backward(v.list) {
		if o, err := parseObject(raw); err == nil && o.str("key") == key {
			return o.str("value")
		}
	}
	return ""
}

// force sets it, whatever the job says.
func (v *variables) force(key, value string) { v.put(variable{Key: key, Value: value}) }

// addFile sets it to a file's content if the job says nothing.
func (v *variables) addFile(key, content string) {
	if !v.has(key) {
		v.put(variable{Key: key, Value: content, File: true})
	}
}

func (v *variables) put(n variable) {
	n.Public, n.Raw = true, true
	v.list = slices.DeleteFunc(v.list, func(raw json.RawMessage) bool { return variableKey(raw) == n.Key })
	v.list = append(v.list, encode(n))
	v.changed = true
}

// maxGitConfig bounds the job's own GIT_CONFIG_COUNT.
const maxGitConfig = 1000

// gitConfig adds settings of git after the job's own, and leaves out those that the
// job has itself. If nobody can tell how many it has, because its count is no
// plain number, nothing is added: git would fail.
func (v *variables) gitConfig(settings [][2]string) {
	n := 0
	if v.has("GIT_CONFIG_COUNT") {
		var err error
		if n, err = strconv.Atoi(v.value("GIT_CONFIG_COUNT")); err != nil || n < 0 || n > maxGitConfig {
			return
		}
	}
	theirs := map[string]bool{}
	for i := range n {
		theirs[v.value("GIT_CONFIG_KEY_"+strconv.Itoa(i))] = true
	}
	for _, s := range settings {
		if theirs[s[0]] && s[0] != "safe.directory" { // that one is a list
			continue
		}
		v.force("GIT_CONFIG_KEY_"+strconv.Itoa(n), s[0])
		v.force("GIT_CONFIG_VALUE_"+strconv.Itoa(n), s[1])
		n++
	}
	v.force("GIT_CONFIG_COUNT", strconv.Itoa(n))
}

var envName = regexp.MustCompile(`^ROOST_[A-Z0-9_]{1,60}$`)

// env sets what the agent wants the job to see. It names variables of Roost alone.
func (v *variables) env(env map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(env)) {
		if envName.MatchString(key) {
			v.force(key, env[key])
		}
	}
}
