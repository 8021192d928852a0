package view

import "github.com/roost-ci/roost/snapshot"

// nameGroups sets Link in sorted entries: groups[i] is equal for the names of one
// file and zero for files with one name.
func nameGroups[G comparable](entries []snapshot.Entry, groups []G) []snapshot.Entry {
	var none G
	count := map[G]int{}
	for _, g := range groups {
		if g != none {
			count[g]++
		}
	}
	first := map[G]string{}
	for i := range entries {
		e, g := &entries[i], groups[i]
		e.Link = ""
		if g == none || count[g] < 2 {
			continue
		}
		if _, ok := first[g]; !ok {
			first[g] = e.Path
		}
		e.Link = first[g]
	}
	return entries
}

// under reports whether p is strictly below the directory dir.
func under(p, dir string) bool {
	return dir == "" && p != "" || len(p) > len(dir) && p[len(dir)] == '/' && p[:len(dir)] == dir
}
