package configs

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// variable is the name of a key in the environment.
func (f field) variable() string {
	return strings.ToUpper("ROOST_" + f.section + "_" + f.key)
}

// override puts what the environment says over what c has. A variable that has the
// name of a section and no such key, or one that is nearly a key's, is a problem:
// whoever set it believes that it does something.
func override(c *Config, environ []string) []error {
	var errs []error
	all := fields(c)
	for _, kv := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "ROOST_") {
			continue
		}
		i := slices.IndexFunc(all, func(f field) bool { return f.variable() == name })
		if i >= 0 {
			if err := all[i].set(value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
			continue
		}
		if near := closest(name, all, field.variable, 3); near != "" {
			errs = append(errs, fmt.Errorf("unknown variable %s (did you mean %s?)", name, near))
		} else if inSection(name) {
			errs = append(errs, fmt.Errorf("unknown variable %s: no such key, see roost config reference", name))
		}
	}
	return errs
}

// inSection reports whether a variable has the name of a section that has keys of
// its own there. Tests of ours use some of the store's.
func inSection(name string) bool {
	for _, s := range []string{"ROOST_COORDINATOR_", "ROOST_AGENT_", "ROOST_GITLAB_"} {
		if strings.HasPrefix(name, s) {
			return true
		}
	}
	return false
}

// set gives a key the value that the text of a variable means.
func (f field) set(text string) error {
	switch f.typ {
	case "integer":
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("want an integer, not %q", text)
		}
		f.value.SetInt(int64(n))
	case "list of strings":
		var list []string
		for _, s := range strings.Split(text, ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
		f.value.Set(reflect.ValueOf(list))
	default:
		f.value.SetString(text)
	}
	return nil
}

// Overrides lists the variables of the environment that stand in for keys.
func Overrides(environ []string) []string {
	c := Config{}
	var names []string
	for _, f := range fields(&c) {
		if slices.ContainsFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, f.variable()+"=") }) {
			names = append(names, f.variable())
		}
	}
	return names
}
