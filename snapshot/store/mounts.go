package store

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// The file "mounts" lists what people mounted for longer than a process, so that
// the next one neither ends the mount nor removes what it shows:
//
//	{"id", "target"}   one object in a line

// maxMounts bounds the file.
const maxMounts = 1 << 20

// Shown is a snapshot that stays mounted at Target.
type Shown struct {
	ID     snapshot.ID `json:"id"`
	Target string      `json:"target"`
}

// ReadShown returns what the store in dir was said to show. Whether it is still
// mounted is not looked at. No file, or a damaged one, is an empty list.
func ReadShown(dir string) []Shown {
	f, err := os.Open(filepath.Join(dir, "mounts"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []Shown
	for d := json.NewDecoder(io.LimitReader(f, maxMounts)); ; {
		var s Shown
		if err := d.Decode(&s); err != nil {
			return out
		}
		if _, err := snapshot.ParseID(string(s.ID)); err == nil && filepath.IsAbs(s.Target) {
			out = append(out, s)
		}
	}
}

// SetShown replaces the list. What is on it is not removed by this process or a
// later one that calls SetShown again.
func (s *Store) SetShown(list []Shown) error {
	path := filepath.Join(s.dir, "mounts")
	if len(list) == 0 {
		err := os.Remove(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	err := durable.WriteFile(path, 0o600, func(w io.Writer) error {
		for _, m := range list {
			if err := json.NewEncoder(w).Encode(m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range list {
		if l := s.layers[m.ID]; l != nil {
			l.mounts = append(l.mounts, l.place())
		}
	}
	return nil
}
