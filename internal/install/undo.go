package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

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
// called before each file, to end what uses it. Undo may be repeated after a crash. With
// Refuse the error is a *ChangedError if files were changed, and nothing is done.
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
		u := r.undone(changed[r.Path], way)
		if u != nil {
			out = append(out, *u)
		}
		if err := in.undoFile(r, u); err != nil {
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
	j.removeDirs()
	if err := in.step("journal removed"); err != nil {
		return out, err
	}
	return out, remove(in.Path)
}

// undone is what becomes of the text that a file has now, nil if that is of no worth:
// it is ours, or what was there before.
func (r Record) undone(changed bool, way string) *Undone {
	beside := r.Path + ".changed-after-roost"
	now, _, err := state(r.Path)
	switch {
	case changed && way == Keep:
		return &Undone{Path: r.Path, Kept: r.Path, Original: r.Backup}
	case changed:
		return &Undone{Path: r.Path, Kept: beside}
	case r.Editable && err == nil && !slices.Contains([]string{r.Before, r.Was, r.After}, now):
		return &Undone{Path: r.Path, Kept: beside}
	}
	return nil
}

// undoFile puts a file back, unless its text is to stay where it is.
func (in *Installer) undoFile(r Record, u *Undone) error {
	switch {
	case u == nil:
		return in.restore(r, "")
	case u.Kept == r.Path:
		return nil
	}
	return in.restore(r, u.Kept)
}

// removeDirs removes the directories that were made, where nothing is left in them but
// litter.
func (j *Journal) removeDirs() {
	for _, d := range slices.Backward(j.Dirs) {
		for _, name := range j.Litter {
			os.Remove(filepath.Join(d, name)) //nolint:errcheck // then the directory stays
		}
		os.Remove(d) //nolint:errcheck // it stays if somebody has put something there
	}
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
