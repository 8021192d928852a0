package store

import (
	"cmp"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// layer is a row of layers in memory. All but info, unsized, removing, mounts and
// use is fixed once the layer is in the map; those are guarded by Store.mu.
type layer struct {
	seq      int64
	info     Info // without Blobs
	at       atomic.Pointer[view.Layer]
	boot     string // in which it was sealed
	key      []byte
	fanin    bool // its view showed a merge: base plus manifests/<id>.fanin
	imported bool
	packs    []pack.Pack // that its index names
	// below is how many layers another host has to fetch before it that are not layers
	// here: its index has what theirs say.
	below int
	// chain are the indexes of these and of itself elsewhere, the first one first; none
	// if its index is the one that others have.
	chain []link

	// unsized says that TreeBytes is not known yet; atMost is what it can't be above,
	// -1 if that is not known either.
	unsized  bool
	atMost   int64
	removing bool
	mounts   []*view.Layer // what is shown by Mount
	use      use
}

// place is where the driver has the layer. It changes when an image of it is made:
// whoever stands on the layer keeps what it was given. Not to be changed.
func (l *layer) place() *view.Layer { return l.at.Load() }

// mostLocked is TreeBytes, or what that is at most; -1 if nobody knows.
func (l *layer) mostLocked() int64 {
	if l == nil {
		return -1
	}
	if l.unsized {
		return l.atMost
	}
	return l.info.TreeBytes
}

func bySeq(a, b *layer) int { return cmp.Compare(a.seq, b.seq) }

// infoLocked returns a copy that the caller may keep.
func (s *Store) infoLocked(l *layer) Info {
	in := l.info
	in.Parents, in.StoredOnly, in.Folded, in.Of = slices.Clone(in.Parents), l.stored(), l.below > 0, l.parts()
	if in.Index.IsZero() {
		return in
	}
	for _, p := range l.packs {
		if b, ok := s.have[p.Digest]; ok {
			in.Blobs = append(in.Blobs, Blob{Digest: p.Digest, Bytes: b.bytes})
		}
	}
	if b, ok := s.have[in.Index]; ok {
		in.Blobs = append(in.Blobs, Blob{Digest: in.Index, Bytes: b.bytes})
	}
	return in
}

// usableLocked returns a layer that views may stand on, or *MissingError.
func (s *Store) usableLocked(id snapshot.ID) (*layer, error) {
	l, ok := s.layers[id]
	switch {
	case !ok:
		return nil, missing("not held", id)
	case l.removing:
		return nil, missing("being removed", id)
	case !l.info.State.Usable():
		return nil, missing(string(l.info.State)+": "+l.info.Err, id)
	}
	return l, nil
}

// standsOn reports whether place can't be shown without the files of l: what is in
// the directory that the driver has for it.
func standsOn(place *view.Layer, l *view.Layer) bool {
	all := path.Dir(l.Dir)
	for _, dirs := range [][]string{place.Lowers, place.Data, place.Devices, {place.Image}} {
		for _, d := range dirs {
			if overlaps(d, all) {
				return true
			}
		}
	}
	return false
}

// overlaps reports whether one of two clean paths is the other or above it.
func overlaps(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// needs reports whether l's tree has files of the layer id, or can't be put
// together without its index.
func (l *layer) needs(id snapshot.ID) bool {
	return l.info.Base == id || l.info.WireBase == id || (l.fanin && slices.Contains(l.info.Parents, id))
}

// standingLocked returns something that needs l here: "" when it may go. A tree
// has files in its base's directory and, after a merge, in those of its parents,
// also where the driver copies.
func (s *Store) standingLocked(l *layer) (what string, on snapshot.ID) {
	id := l.info.ID
	for _, o := range s.layers {
		if o == l {
			continue
		}
		if o.needs(id) || standsOn(o.place(), l.place()) {
			return "layer", o.info.ID
		}
	}
	for _, v := range s.views {
		if !v.sealed && slices.Contains(v.stands, id) {
			return "view", v.id
		}
	}
	if what, on := s.shownLocked(l); what != "" {
		return what, on
	}
	for _, im := range s.imports {
		if im.base == id {
			return "import", im.id
		}
	}
	if s.held[id] > 0 && l.info.State.Usable() { // a doubtful one may make room for a good copy
		return "hold", id
	}
	return "", ""
}

// shownLocked returns something that is mounted and has directories of l in it,
// be it by what a layer was before an image of it was made.
func (s *Store) shownLocked(l *layer) (what string, on snapshot.ID) {
	if len(l.mounts) > 0 {
		return "mount", l.info.ID
	}
	for _, o := range s.layers {
		for _, p := range o.mounts {
			if standsOn(p, l.place()) {
				return "mount", o.info.ID
			}
		}
	}
	for _, v := range s.views {
		if !v.sealed && v.onto != nil && standsOn(v.onto, l.place()) {
			return "view", v.id
		}
	}
	return "", ""
}

// openView is a row of views in memory, guarded by Store.mu; what a view under way
// needs beyond its row is set before it is in the map.
type openView struct {
	id      snapshot.ID
	target  string
	claim   []byte
	sealed  bool
	outcome []byte

	// Of a view of this process only, or one that was taken over (outlive.go).
	v       *view.View
	key     []byte
	base    snapshot.ID
	parents []snapshot.ID
	stands  []snapshot.ID // layers that it shows files of
	onto    *view.Layer   // what its base was when it was mounted
	fanin   *fanin        // nil unless several inputs were merged
	doubt   string        // why what it becomes can't be trusted; "" if it can
	ready   chan struct{} // closed when what a seal needs beside the view was looked for
	// outlives says that a file tells the next process of it, sealing that the file says
	// that it may have been unmounted by Seal.
	outlives, sealing bool
}
