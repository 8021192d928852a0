// Package install puts files in place on a machine and takes them back, byte for byte.
// A journal says what was there before; it is written before anything else changes, so
// that a crash at any step is undone by the next run.
//
// Crash states, in order, and what the next run makes of each with Undo:
//  1. a journal in phase "applying": some files may be new, some backups missing. A
//     file that is new has a backup, since backups are written first. All is put back.
//  2. "done": all is in place, and nothing has to be undone.
//  3. "undoing": some files may be back already. The rest is put back.
//  4. no journal: nothing was begun, or all is undone. A backup that is left is told of.
package install

import (
	"io/fs"
	"time"
)

// File is what a file is to be.
type File struct {
	Path string
	Text []byte
	// Mode is for a file that is new; one that was there keeps its mode and its owner.
	Mode fs.FileMode
	// Editable is for files that people are meant to change.
	Editable bool
}

// Installer works on one journal. One process at a time may use it.
type Installer struct {
	// Path is the journal.
	Path string
	// By names this program, with its version.
	By string
	// Step, if set, is called before each step that changes something; an error stops
	// everything there, as a crash would.
	Step func(name string) error
	Now  func() time.Time
}

func (in *Installer) step(name string) error {
	if in.Step == nil {
		return nil
	}
	return in.Step(name)
}
