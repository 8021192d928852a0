package install

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/roost-ci/roost/internal/durable"
)

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
