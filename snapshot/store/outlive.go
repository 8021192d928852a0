package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// openDir holds open/<id>, what the next process needs to know of a view whose job may
// outlive this one. The files are not synced: after a power cut no job runs, and no
// mount is left.
const openDir = "open"

// outliving is such a file; openView says what its fields are.
type outliving struct {
	Boot    string        `json:"boot"` // under another one it tells of nothing
	View    view.View     `json:"view"`
	Base    snapshot.ID   `json:"base,omitempty"`
	Onto    *view.Layer   `json:"onto,omitempty"`
	Parents []snapshot.ID `json:"parents,omitempty"`
	Stands  []snapshot.ID `json:"stands,omitempty"`
	Key     []byte        `json:"key"`
	Fanin   bool          `json:"fanin,omitempty"`
	Doubt   string        `json:"doubt,omitempty"`
	// Sealing says that the view may be gone from its place because its job had ended.
	Sealing bool `json:"sealing,omitempty"`
}

func (s *Store) openPath(id snapshot.ID) string { return filepath.Join(s.dir, openDir, string(id)) }

// noteOutliving writes the file of a view, and before it the merge that the view shows:
// its layer can't be understood without.
func (s *Store) noteOutliving(v *openView) error {
	if v.fanin != nil {
		<-v.ready
		s.mu.Lock()
		written := v.fanin.written
		s.mu.Unlock()
		if !written {
			return errors.New("the merge that it shows is not written down")
		}
	}
	s.mu.Lock()
	o := outliving{
		Boot: s.o.BootID, View: *v.v, Base: v.base, Onto: v.onto, Parents: v.parents, Stands: v.stands, Key: v.key,
		Fanin: v.fanin != nil, Doubt: v.doubt, Sealing: v.sealing,
	}
	s.mu.Unlock()
	b, err := json.Marshal(&o)
	if err != nil {
		return err
	}
	if err := durable.Replace(s.openPath(v.id), 0o600, b); err != nil {
		return err
	}
	fail.Point("store.prepare.outlives")
	return nil
}

// noteSealing says in the file whether a seal may have been begun. On a full disk it
// can't: a seal goes on without.
func (s *Store) noteSealing(v *openView, on bool) {
	if !v.outlives {
		return
	}
	s.mu.Lock()
	v.sealing = on
	s.mu.Unlock()
	if err := s.noteOutliving(v); err != nil {
		s.log.Warn("the next process would not know that a view is being sealed", "view", v.id, "error", err)
	}
}

// resumeViews takes over the views that are still in their place, and drops the files
// of all others.
func (s *Store) resumeViews(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, openDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		v := s.views[snapshot.ID(e.Name())]
		if v != nil && !v.sealed {
			err := s.resume(ctx, v)
			if err == nil {
				s.log.Info("a view goes on", "view", v.id, "target", v.target)
				continue
			}
			s.log.Warn("a view can't go on", "view", v.id, "error", err)
		}
		removeFile(filepath.Join(s.dir, openDir, e.Name()), s.log)
	}
	return nil
}

// resume takes over one view.
func (s *Store) resume(ctx context.Context, v *openView) error {
	d, ok := s.driver.(view.Resumer)
	if !ok {
		return fmt.Errorf("views of the driver %q end with their process", s.driver.Name())
	}
	b, err := os.ReadFile(s.openPath(v.id))
	if err != nil {
		return err
	}
	var o outliving
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	switch {
	case o.Boot == "" || o.Boot != s.o.BootID:
		return errors.New("the machine was restarted")
	case o.View.ID != v.id:
		return fmt.Errorf("its file tells of view %q", o.View.ID)
	}
	for _, id := range o.Stands {
		if _, ok := s.layers[id]; !ok {
			return missing("what it stands on is gone", id)
		}
	}
	if err := d.Resume(ctx, &o.View); err != nil && (!o.Sealing || !errors.Is(err, snapshot.ErrNotFound)) {
		return err
	}
	v.v, v.base, v.onto, v.parents, v.stands, v.key = &o.View, o.Base, o.Onto, o.Parents, o.Stands, o.Key
	v.doubt, v.outlives, v.ready = o.Doubt, true, make(chan struct{})
	close(v.ready)
	if o.Fanin {
		v.fanin = &fanin{written: true, bytes: -1}
	}
	return nil
}
