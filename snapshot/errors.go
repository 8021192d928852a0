package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Outcomes that callers branch on.
var (
	// ErrNotFound says that no such snapshot, layer or blob is known here.
	ErrNotFound = errors.New("not found")
	// ErrBusy says that somebody can still write to a view that is to be sealed.
	ErrBusy = errors.New("still in use")
	// ErrNewerFormat says that a newer version of Roost made what was read.
	ErrNewerFormat = errors.New("made by a newer version of roost")
)

// CorruptError says which stored or received bytes failed verification.
type CorruptError struct {
	What string // what was read: a pack, an index, a manifest, a file
	Name string // its digest or path
	Why  string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt %s %s: %s", e.What, e.Name, e.Why)
}

// UnsupportedError names the first entry that can't be sealed. The job stays
// green and has no output.
type UnsupportedError struct {
	Path string
	What string // "character device", "file capability", ...
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: a %s can't be part of a snapshot", showPath(e.Path), e.What)
}

// showPath makes a path fit to be read. A job chooses it: it may have any length,
// and bytes that a terminal would take for commands.
func showPath(p string) string {
	const most = 120 // bytes of either end
	if len(p) > 2*most {
		p = strings.ToValidUTF8(p[:most], "") + "…" + strings.ToValidUTF8(p[len(p)-most:], "")
	}
	if !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
		return strconv.Quote(p)
	}
	return p
}

// Taken is err with what it may mean where it says that a name that was to be made is
// there already. In a tree each name is there once; a file system that takes Name and name
// for the same has no room for both, and nothing of either is written over.
func Taken(err error) error {
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fmt.Errorf("%w (this file system seems to take two names of the tree for the same, such as Name and name: "+
		"rename one, or use one that tells them apart)", err)
}

// ConflictKind is how two parents of a job disagree about a path.
type ConflictKind string

// The kinds of conflict.
const (
	ConflictModify     ConflictKind = "modify/modify"
	ConflictDelete     ConflictKind = "modify/delete"
	ConflictType       ConflictKind = "type change"
	ConflictAddDeleted ConflictKind = "add in a deleted directory"
	ConflictAtomic     ConflictKind = "atomic subtree changed twice"
	ConflictGit        ConflictKind = "different git HEAD"
	// ConflictCase is found where the host's file system takes two names for the same.
	ConflictCase ConflictKind = "names that differ in case alone"
)

// Conflict is one path that two parents changed in different ways.
type Conflict struct {
	Path  string       `json:"path"`
	Other string       `json:"other,omitempty"` // the other name, of ConflictCase
	Kind  ConflictKind `json:"kind"`
	Jobs  [2]string    `json:"jobs"`
}

// Where names the path, or both.
func (c *Conflict) Where() string {
	if c.Other == "" {
		return strconv.Quote(c.Path)
	}
	return strconv.Quote(c.Path) + " and " + strconv.Quote(c.Other)
}

// ConflictError is a fan-in that can't be decided. It is never retried.
type ConflictError struct {
	Conflicts []Conflict // sorted by path, at least one
}

func (e *ConflictError) Error() string {
	c := e.Conflicts[0]
	more := ""
	if n := len(e.Conflicts) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	if c.Kind == ConflictCase {
		return fmt.Sprintf("merge conflict (%s) at %s: this host's file system has room for one of what jobs %q and %q made%s. "+
			"Three ways out: give both the same name; let the job run on a host that tells them apart; "+
			"or stop inheriting from one with needs: [{job: %s, workspace: false}]",
			c.Kind, c.Where(), c.Jobs[0], c.Jobs[1], more, c.Jobs[0])
	}
	return fmt.Sprintf("merge conflict (%s) at %s: jobs %q and %q disagree%s. Three ways out: "+
		"let only one of them write it; say which one wins with workspace: {on_conflict: order} or "+
		"{prefer: {%q: %s}}; or stop inheriting from one with needs: [{job: %s, workspace: false}]",
		c.Kind, c.Where(), c.Jobs[0], c.Jobs[1], more, c.Path, c.Jobs[0], c.Jobs[1])
}
