package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roost-ci/roost/internal/durable"
)

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
