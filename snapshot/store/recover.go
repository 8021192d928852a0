package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// recover brings the directory in line with the rows, which are right by the
// order of every commit:
//
//   - views that outlive an earlier process are taken over;
//   - other mounts of an earlier process are undone, directories of no row removed
//     (by the driver);
//   - removals that were begun are finished;
//   - temporary files, and blobs and manifests that no row names, are deleted:
//     their row was never committed, or says that they are not needed;
//   - layers that were not synced in another boot are suspect, and so are
//     those whose directory, index or manifest is gone, and all that stands on them;
//   - what was found damaged long ago is deleted from bad/.
//
// Each step can be cut short and done again.
func (s *Store) recover(ctx context.Context) error {
	if err := s.resumeViews(ctx); err != nil {
		return err
	}
	if err := s.reconcile(ctx); err != nil {
		return err
	}
	if err := s.finishIntents(ctx); err != nil {
		return err
	}
	if err := s.sweepFiles(); err != nil {
		return err
	}
	if err := s.sweepBad(); err != nil {
		return err
	}
	return s.suspectUnsynced(ctx)
}

func (s *Store) reconcile(ctx context.Context) error {
	var layers, views []snapshot.ID
	for id, l := range s.layers {
		if !l.stored() { // else a directory of it was cut short
			layers = append(layers, id)
		}
	}
	for id, v := range s.views {
		if !v.sealed {
			views = append(views, id)
		}
	}
	slices.Sort(layers)
	slices.Sort(views)
	cleaned, err := s.driver.Reconcile(ctx, layers, views)
	for _, c := range cleaned {
		s.log.Info("cleaned up after an earlier process", "what", c)
	}
	if err != nil {
		return fmt.Errorf("reconcile views: %w", err)
	}
	return nil
}

func (s *Store) finishIntents(ctx context.Context) error {
	type intent struct {
		id    snapshot.ID
		place view.Layer
	}
	var todo []intent
	err := s.each(ctx, "SELECT id, place FROM intents", func(r *sql.Rows) error {
		var in intent
		var place string
		if err := r.Scan(&in.id, &place); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(place), &in.place); err != nil {
			return fmt.Errorf("intent %s: %w", in.id, err)
		}
		todo = append(todo, in)
		return nil
	})
	if err != nil {
		return err
	}
	for _, in := range todo {
		if err := s.finishRemoval(ctx, in.id, &in.place); err != nil {
			return err
		}
	}
	return nil
}

// sweepFiles deletes what no row names and fills s.have.
func (s *Store) sweepFiles() error {
	if err := s.emptyTmp(); err != nil {
		return err
	}
	known := s.wantedFiles()
	for _, dir := range []string{"packs", "indexes", "manifests"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(s.dir, dir, e.Name())
			if !known[dir+"/"+e.Name()] {
				s.log.Info("removed a file of no layer", "file", dir+"/"+e.Name())
				s.noteSwept(dir+"/"+e.Name(), e)
				removeFile(path, s.log)
				continue
			}
			if dir == "manifests" {
				continue
			}
			fi, err := e.Info()
			if err != nil {
				return err
			}
			if d, err := snapshot.ParseDigest(e.Name()); err == nil {
				s.addBlob(d, path, fi.Size())
			}
		}
	}
	return nil
}

// wantedFiles are the files below the store that rows name. A pack is needed
// until all layers that use it are durable.
func (s *Store) wantedFiles() map[string]bool {
	want := map[string]bool{}
	for id, v := range s.views {
		if !v.sealed {
			want["manifests/"+string(id)+".fanin"] = true // Discard removes it
		}
	}
	for id, l := range s.layers {
		want["manifests/"+string(id)+".fanin"] = l.fanin
		want["manifests/"+string(id)+".src"] = !l.stored()
		want["manifests/"+string(id)+".stamps"] = true
		want["manifests/"+string(id)+".moved"] = l.place().Gathered
		if !l.info.Manifest.IsZero() {
			want["manifests/"+l.info.Manifest.String()] = true
		}
		if !l.info.Index.IsZero() {
			want["indexes/"+l.info.Index.String()] = true
		}
		if l.info.State == Durable && !l.stored() {
			continue
		}
		for _, p := range l.packs {
			want["packs/"+p.Digest.String()] = true
		}
	}
	return want
}

// lostFiles looks whether what a row names is there at all, and returns what is not.
// What is in it is the scrub's business; packs it makes again.
func (s *Store) lostFiles(l *layer) string {
	var want []string
	if !l.stored() {
		want = append(want, filepath.Join(s.dir, filepath.FromSlash(l.place().Dir)))
	}
	if !l.info.Index.IsZero() {
		want = append(want, s.indexPath(l.info.Index), s.manifestPath(l.info.Manifest))
	}
	for _, path := range want {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			name, _ := s.rel(path)
			return name + " is gone"
		}
	}
	return ""
}

// sweepBad deletes damaged files that nobody has looked at for long.
func (s *Store) sweepBad() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, badDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && s.o.Now().Sub(fi.ModTime()) > doubtfulFor {
			removeFile(filepath.Join(s.dir, badDir, e.Name()), s.log)
		}
	}
	return nil
}

// addBlob notes a file that OpenBlob may serve.
func (s *Store) addBlob(d snapshot.Digest, path string, bytes int64) {
	s.mu.Lock()
	s.have[d] = blobFile{path: path, bytes: bytes}
	s.mu.Unlock()
}

// suspectUnsynced: a sealed layer that was not synced did not survive the end of
// its boot for sure (docs/failure-model.md). Whatever stands on it shows the same bytes.
func (s *Store) suspectUnsynced(ctx context.Context) error {
	ls := make([]*layer, 0, len(s.layers))
	for _, l := range s.layers {
		ls = append(ls, l)
	}
	slices.SortFunc(ls, bySeq) // a base comes before what stands on it
	for _, l := range ls {
		if !l.info.State.Usable() {
			continue
		}
		if !l.info.Synced && (s.o.BootID == "" || l.boot != s.o.BootID) {
			err := errors.New("sealed before a restart of the machine and not synced by then")
			if l.imported {
				err = errors.New("fetched before a restart of the machine and not synced by then: it is fetched again")
			}
			if err := s.endUse(ctx, l, Suspect, err); err != nil {
				return err
			}
			continue
		}
		if why := s.lostFiles(l); why != "" {
			if err := s.endUse(ctx, l, Suspect, errors.New(why)); err != nil {
				return err
			}
			continue
		}
		if on := s.onUnusable(l); on != "" {
			if err := s.endUse(ctx, l, Suspect, errors.New(standsOnSuspect(on))); err != nil {
				return err
			}
		}
	}
	return nil
}

// onUnusable returns a suspect layer that l can't be without.
func (s *Store) onUnusable(l *layer) snapshot.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, o := range s.layers {
		if o.info.State == Suspect && l.needs(id) {
			return id
		}
	}
	return ""
}

// Swept is a file that a crash had left and Open deleted.
type Swept struct {
	File  string `json:"file"` // relative to the store
	Bytes int64  `json:"bytes"`
}

// Swept lists what Open deleted because no row names it.
func (s *Store) Swept() []Swept { return slices.Clone(s.swept) }

func (s *Store) noteSwept(name string, e os.DirEntry) {
	w := Swept{File: name}
	if fi, err := e.Info(); err == nil {
		w.Bytes = fi.Size()
	}
	s.swept = append(s.swept, w)
}

// emptyTmp deletes what was being written.
func (s *Store) emptyTmp() error {
	dir := filepath.Join(s.dir, "tmp")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		s.noteSwept("tmp/"+e.Name(), e)
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeFile deletes a file that is not needed. If it stays, the next Open
// deletes it.
func removeFile(path string, log hclog.Logger) {
	err := os.Remove(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Warn("can't remove a file that is not needed", "file", path, "error", err)
	}
}
