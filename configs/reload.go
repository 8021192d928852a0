package configs

import "reflect"

// Change is a key whose value is another one than before.
type Change struct {
	Key string
	// Live reports whether a running daemon can take it over. Others need a restart.
	Live bool
}

// Changes lists the keys of a section in which two configurations differ.
func Changes(section string, was, is Config) []Change {
	var out []Change
	a, b := fields(&was), fields(&is)
	for i := range a {
		if a[i].section != section || reflect.DeepEqual(a[i].value.Interface(), b[i].value.Interface()) {
			continue
		}
		if a[i].value.Kind() == reflect.Slice && a[i].value.Len()+b[i].value.Len() == 0 {
			continue // none and an empty list
		}
		out = append(out, Change{Key: a[i].name(), Live: a[i].reload})
	}
	return out
}

// TakeLive gives was the values of is that a running daemon can take over.
func TakeLive(was *Config, is Config) {
	a, b := fields(was), fields(&is)
	for i := range a {
		if a[i].reload {
			a[i].value.Set(b[i].value)
		}
	}
}
