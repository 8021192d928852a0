package view

import "github.com/roost-ci/roost/snapshot"

// nameGroups sets Link in sorted entries: groups[i] is equal for the names of one
// file and "" for files with one name.
func nameGroups(entries []snapshot.Entry, groups []string) []snapshot.Entry {
	count := map[string]int{}
	for _, g := range groups {
		if g != "" {
			count[g]++
		}
	}
	first := map[string]string{}
	for i := range entries {
		e, g := &entries[i], groups[i]
		e.Link = ""
		if g == "" || count[g] < 2 {
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
