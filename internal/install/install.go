// Package install puts files in place on a machine and takes them back, byte for byte.
// A journal says what was there before; it is written before anything else changes, so
// that a crash at any step is undone by the next run.
//
// Crash states, in order, and what Recover makes of each:
//  1. a journal in phase "applying": some files may be new, some backups missing. A
//     file that is new has a backup, since backups are written first. All is put back.
//  2. "done": nothing to do.
//  3. "undoing": some files may be back already. The rest is put back.
//  4. no journal: nothing was begun, or all is undone. A backup that is left is told of.
package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/roost-ci/roost/internal/durable"
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

// Record is a file that was changed.
type Record struct {
	Path string `json:"path"`
	// Before and After are checksums; "" says that there was, or is, none. Was is After of
	// the installation before, if this one is not the first.
	Before string `json:"before,omitempty"`
	Was    string `json:"was,omitempty"`
	After  string `json:"after,omitempty"`
	Backup string `json:"backup,omitempty"`
	// Editable: that it was changed is no surprise. What people wrote is kept beside it.
	Editable bool `json:"editable,omitempty"`
}

// Phases of a journal.
const (
	Applying = "applying"
	Done     = "done"
	Undoing  = "undoing"
)

// journalVersion is 1: the first.
const journalVersion = 1

// Journal is what was done to the machine.
type Journal struct {
	Version int       `json:"version"`
	What    string    `json:"what"`
	By      string    `json:"by"`
	When    time.Time `json:"when"`
	Phase   string    `json:"phase"`
	Files   []Record  `json:"files"`
	// Dirs were made for files and go with them, if they are empty then but for Litter.
	Dirs   []string `json:"dirs,omitempty"`
	Litter []string `json:"litter,omitempty"`
	// Units are services that were enabled and started.
	Units []string `json:"units,omitempty"`
	// Options is what the caller wants to remember.
	Options json.RawMessage `json:"options,omitempty"`
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

// Read gives the journal, nil if there is none.
func (in *Installer) Read() (*Journal, error) {
	b, err := os.ReadFile(in.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j := &Journal{}
	if err := json.Unmarshal(b, j); err != nil {
		return nil, fmt.Errorf("journal %s: %w", in.Path, err)
	}
	if j.Version > journalVersion {
		return nil, fmt.Errorf("journal %s was written by %s, which is newer than this program", in.Path, j.By)
	}
	return j, nil
}

func (in *Installer) write(j *Journal) error {
	if err := in.step("journal " + j.Phase); err != nil {
		return err
	}
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(in.Path), 0o755); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := writeFile(in.Path, append(b, '\n'), 0o600, nil); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

func (in *Installer) step(name string) error {
	if in.Step == nil {
		return nil
	}
	return in.Step(name)
}

// Original is the text of a file as it was before the installation that j tells of, or
// as it is now if j does not know it. ok is false if there is or was none.
func (j *Journal) Original(path string) (text []byte, ok bool, err error) {
	if r := j.record(path); r != nil {
		if r.Before == "" {
			return nil, false, nil
		}
		text, err = os.ReadFile(r.Backup)
		if err == nil && sum(text) != r.Before {
			err = fmt.Errorf("%s is not what it was when it was made", r.Backup)
		}
		return text, err == nil, err
	}
	text, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return text, err == nil, err
}

func (j *Journal) record(path string) *Record {
	if j == nil {
		return nil
	}
	for i := range j.Files {
		if j.Files[i].Path == path {
			return &j.Files[i]
		}
	}
	return nil
}

// ChangedError says that somebody changed files since they were put in place.
type ChangedError struct{ Files []Record }

func (e *ChangedError) Error() string {
	var names []string
	for _, r := range e.Files {
		names = append(names, r.Path)
	}
	return "changed since the installation: " + strings.Join(names, ", ")
}

// Changed returns a *ChangedError if a file is neither what it was nor what it was made.
func (j *Journal) Changed() error {
	var e ChangedError
	for _, r := range j.Files {
		now, _, err := state(r.Path)
		if err != nil {
			return err
		}
		if !r.Editable && now != r.Before && now != r.Was && now != r.After {
			e.Files = append(e.Files, r)
		}
	}
	if len(e.Files) > 0 {
		return &e
	}
	return nil
}

// Apply puts files in place of what is there. old is the journal of an installation
// that is in place, nil for the first: files that it has and that are not among the
// new ones are put back. The caller has checked that nothing was Changed, and starts units
// when Apply has returned, then calls Finish.
func (in *Installer) Apply(old *Journal, next *Journal, files []File) error {
	next.Version, next.By, next.When, next.Phase = journalVersion, in.By, in.Now().UTC(), Applying
	next.Files, next.Dirs = nil, nil
	if old != nil {
		next.Dirs = old.Dirs
	}
	for _, f := range files {
		r, err := record(old, f)
		if err != nil {
			return err
		}
		next.Files = append(next.Files, r)
		next.Dirs = append(next.Dirs, newDirs(filepath.Dir(f.Path), next.Dirs)...)
	}
	var back []Record
	if old != nil {
		for _, r := range old.Files {
			if !slices.ContainsFunc(files, func(f File) bool { return f.Path == r.Path }) {
				r.Was, r.After = r.After, r.Before
				back = append(back, r)
			}
		}
	}
	next.Files = append(next.Files, back...)
	if err := in.write(next); err != nil {
		return err
	}
	for _, r := range next.Files {
		if err := in.backup(r); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := in.put(f); err != nil {
			return err
		}
	}
	for _, r := range back {
		if err := in.restore(r, ""); err != nil {
			return err
		}
	}
	return nil
}

// Finish says that all is in place.
func (in *Installer) Finish(j *Journal) error {
	var gone []Record
	j.Files = slices.DeleteFunc(j.Files, func(r Record) bool {
		if r.After == r.Before {
			gone = append(gone, r)
		}
		return r.After == r.Before
	})
	for i := range j.Files {
		j.Files[i].Was = ""
	}
	j.Phase = Done
	if err := in.write(j); err != nil {
		return err
	}
	for _, r := range gone {
		if err := in.drop(r.Backup); err != nil {
			return err
		}
	}
	return nil
}

// record is what will be known of a file.
func record(old *Journal, f File) (Record, error) {
	now, _, err := state(f.Path)
	if err != nil {
		return Record{}, err
	}
	r := Record{Path: f.Path, Before: now, After: sum(f.Text), Editable: f.Editable}
	if o := old.record(f.Path); o != nil {
		r.Before, r.Was, r.Backup = o.Before, now, o.Backup
		return r, nil
	}
	if now != "" && now != r.After {
		r.Backup = f.Path + ".before-roost"
		for n := 1; exists(r.Backup); n++ {
			r.Backup = fmt.Sprintf("%s.before-roost.%d", f.Path, n)
		}
	}
	return r, nil
}

// newDirs are the directories that have to be made, the uppermost first.
func newDirs(dir string, known []string) []string {
	var out []string
	for !exists(dir) && !slices.Contains(known, dir) {
		out = append([]string{dir}, out...)
		dir = filepath.Dir(dir)
	}
	return out
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// backup copies what was there, if that is not done yet.
func (in *Installer) backup(r Record) error {
	if r.Backup == "" || exists(r.Backup) {
		return nil
	}
	if err := in.step("backup " + r.Path); err != nil {
		return err
	}
	text, err := os.ReadFile(r.Path)
	if err != nil {
		return err
	}
	if sum(text) != r.Before {
		return fmt.Errorf("%s changed while it was being replaced: try again", r.Path)
	}
	fi, err := os.Stat(r.Path)
	if err != nil {
		return err
	}
	return writeFile(r.Backup, text, fi.Mode().Perm(), fi)
}

// put writes a file, with the mode and the owner of the one that it replaces.
func (in *Installer) put(f File) error {
	now, fi, err := state(f.Path)
	if err != nil {
		return err
	}
	if now == sum(f.Text) {
		return nil
	}
	if err := in.step("write " + f.Path); err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	mode := f.Mode
	if fi != nil {
		mode = fi.Mode().Perm()
	}
	return writeFile(f.Path, f.Text, mode, fi)
}

// restore puts back what was there. keep, if set, is where what is there now goes.
func (in *Installer) restore(r Record, keep string) error {
	now, fi, err := state(r.Path)
	if err != nil || now == r.Before {
		return err
	}
	if keep != "" && now != "" {
		if err := in.step("keep " + r.Path); err != nil {
			return err
		}
		text, err := os.ReadFile(r.Path)
		if err != nil {
			return err
		}
		if err := writeFile(keep, text, fi.Mode().Perm(), fi); err != nil {
			return err
		}
	}
	if err := in.step("restore " + r.Path); err != nil {
		return err
	}
	if r.Before == "" {
		return remove(r.Path)
	}
	text, err := os.ReadFile(r.Backup)
	if err != nil {
		return err
	}
	if sum(text) != r.Before {
		return fmt.Errorf("%s is not what it was when it was made: put %s in order by hand", r.Backup, r.Path)
	}
	old, err := os.Stat(r.Backup)
	if err != nil {
		return err
	}
	return writeFile(r.Path, text, old.Mode().Perm(), old)
}

// Ways to undo when files were changed since.
const (
	Refuse = ""      // do nothing
	Force  = "force" // put back what was there; what is there now is kept beside it
	Keep   = "keep"  // leave the changed files as they are
)

// Undone is what was done with a file that was changed since.
type Undone struct {
	Path string `json:"path"`
	// Kept is where its text is now: Path itself, or beside it.
	Kept string `json:"kept"`
	// Original is where the text from before the installation is.
	Original string `json:"original,omitempty"`
}

// Undo puts everything back, the last first, and removes the journal. before, if set, is
// called before each file, to end what uses it. Undo may be repeated after a crash.
func (in *Installer) Undo(j *Journal, way string, before func(path string) error) ([]Undone, error) {
	changed := map[string]bool{}
	err := j.Changed()
	var ce *ChangedError
	if errors.As(err, &ce) && way != Refuse {
		for _, r := range ce.Files {
			changed[r.Path] = true
		}
	} else if err != nil {
		return nil, err
	}
	j.Phase = Undoing
	if err := in.write(j); err != nil {
		return nil, err
	}
	var out []Undone
	for _, r := range slices.Backward(j.Files) {
		if before != nil {
			if err := before(r.Path); err != nil {
				return out, err
			}
		}
		keep := ""
		if now, _, err := state(r.Path); r.Editable && err == nil && !slices.Contains([]string{r.Before, r.Was, r.After}, now) {
			keep = r.Path + ".changed-after-roost"
			out = append(out, Undone{Path: r.Path, Kept: keep})
		}
		if changed[r.Path] {
			u := Undone{Path: r.Path, Kept: r.Path, Original: r.Backup}
			if way == Force {
				u.Kept, u.Original = r.Path+".changed-after-roost", ""
				keep = u.Kept
			}
			if out = append(out, u); way == Keep {
				continue
			}
		}
		if err := in.restore(r, keep); err != nil {
			return out, err
		}
	}
	for _, r := range j.Files {
		if changed[r.Path] && way == Keep {
			continue // the original stays for people
		}
		if err := in.drop(r.Backup); err != nil {
			return out, err
		}
	}
	for _, d := range slices.Backward(j.Dirs) {
		for _, name := range j.Litter {
			os.Remove(filepath.Join(d, name)) //nolint:errcheck // then the directory stays
		}
		os.Remove(d) //nolint:errcheck // it stays if somebody has put something there
	}
	if err := in.step("journal removed"); err != nil {
		return out, err
	}
	return out, remove(in.Path)
}

// drop removes a backup.
func (in *Installer) drop(path string) error {
	if path == "" || !exists(path) {
		return nil
	}
	if err := in.step("drop " + path); err != nil {
		return err
	}
	return remove(path)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// state is the checksum of a file, "" if there is none.
func state(path string) (string, fs.FileInfo, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	fi, err := os.Stat(path)
	return sum(text), fi, err
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// writeFile writes a file with a mode and, where it can, the owner of another one.
func writeFile(path string, text []byte, mode fs.FileMode, like fs.FileInfo) error {
	return durable.WriteFile(path, mode, func(w io.Writer) error {
		if f, ok := w.(interface{ Chown(uid, gid int) error }); ok && like != nil {
			if uid, gid, known := owner(like); known && os.Geteuid() == 0 {
				if err := f.Chown(uid, gid); err != nil {
					return err
				}
			}
		}
		_, err := io.Copy(w, bytes.NewReader(text))
		return err
	})
}
