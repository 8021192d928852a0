package tree

import (
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// Relink returns changes that make the same tree t of the same base, with the groups
// of hard links as Diff would have them: each Link is t's, and a group of which one
// name is listed is listed whole.
//
// In a list that somebody else wrote, a Link can name whatever Apply makes sense of:
// a name of the base, a file that the list itself makes anew and that is then no name
// of the group, or nothing. Who makes files from the list alone would take some of
// these for one file that are several. changes must be what t was made by; they are
// left as they are, and so is the result if nothing is to be put right.
func Relink(t *snapshot.Manifest, changes []snapshot.Change) []snapshot.Change {
	var out []snapshot.Change
	touched := map[string]bool{}
	left := t.Entries // those before are before what is left of the changes
	for i := range changes {
		c := &changes[i]
		if c.Delete {
			continue
		}
		// Mostly it is the next one: a tree that is new as a whole needs no search.
		if len(left) == 0 || left[0].Path != c.Entry.Path {
			n, ok := find(left, c.Entry.Path)
			if left = left[n:]; !ok {
				continue
			}
		}
		link := left[0].Link
		left = left[1:]
		if link != "" {
			touched[link] = true
		}
		if link == c.Entry.Link {
			continue
		}
		if out == nil {
			out = slices.Clone(changes)
		}
		out[i].Entry.Link = link
	}
	if out == nil {
		out = changes
	}
	if len(touched) == 0 {
		return out
	}
	var linked []int // names of those groups that are not listed
	for i := range t.Entries {
		if link := t.Entries[i].Link; link != "" && touched[link] && findChange(changes, t.Entries[i].Path) == nil {
			linked = append(linked, i)
		}
	}
	return wholeGroups(slices.Clip(out), t, linked)
}

// findChange returns the change of path in a sorted list, or nil.
func findChange(ch []snapshot.Change, path string) *snapshot.Change {
	i, ok := slices.BinarySearchFunc(ch, path, func(c snapshot.Change, p string) int { return comparePaths(c.Entry.Path, p) })
	if !ok {
		return nil
	}
	return &ch[i]
}
