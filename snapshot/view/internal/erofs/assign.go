package erofs

import (
	"errors"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// ErrBase says that Options.Base can't be read. Write would do without it.
var ErrBase = errors.New("image of the base")

// maxWaste bounds the room that keeping places may leave unused: an image with
// more slots than so many for each one in use gets new places throughout.
const maxWaste = 4

// inlineFlag marks the slots of an inode whose target must not cross a block.
const inlineFlag = 1 << 31

// place is the first walk: it finds the nid of every entry.
func (w *writer) place(tree Tree) error {
	p := &placer{}
	base, err := w.openBase()
	if err != nil {
		return err
	}
	w.groups = map[string]int{}
	err = w.each(tree, func(name string, e *snapshot.Entry, c Content) error {
		return w.placeEntry(p, base, name, e, c)
	}, func() error { return nil })
	if err != nil {
		return err
	}
	if err := w.assign(p); err != nil {
		return err
	}
	if n := w.end(); n > maxWaste*w.total {
		clear(w.nids)
		w.kept = 0
		p = &placer{}
		return w.assign(p)
	}
	return nil
}

func (w *writer) placeEntry(p *placer, base *Image, name string, e *snapshot.Entry, c Content) error {
	nid, dir, err := w.wish(base, name, e)
	if err != nil {
		return err
	}
	if e.Type == snapshot.TypeDir {
		w.stack.push(e.Path).base = dir
	}
	first, ok, err := w.isFirst(e)
	if err != nil {
		return err
	}
	if !ok { // any of its names brings a group its old place
		if w.nids[first] == 0 && nid != 0 && p.want(nid) {
			w.nids[first] = nid
		}
		w.nids, w.slots = append(w.nids, uint32(first)), append(w.slots, 0)
		return nil
	}
	if err := w.shape.set(e, c, &w.x, w.block, len(w.needs)); err != nil {
		return err
	}
	if e.Link != "" {
		w.groups[e.Link] = w.at
	}
	if nid != 0 && !p.want(nid) {
		nid = 0
	}
	slots := w.shape.slots
	w.total += uint64(slots)
	if w.shape.inline > 0 {
		slots |= inlineFlag
	}
	w.nids, w.slots = append(w.nids, nid), append(w.slots, slots)
	return nil
}

func (w *writer) openBase() (*Image, error) {
	if w.o.Base == nil {
		return nil, nil
	}
	m, err := Open(w.o.Base)
	if err != nil {
		return nil, fmt.Errorf("erofs: %w: %w", ErrBase, err)
	}
	return m, nil
}

// wish returns the nid that the base has for e, 0 for none, and the base's
// directory if both have one.
func (w *writer) wish(base *Image, name string, e *snapshot.Entry) (uint32, baseDir, error) {
	if base == nil {
		return 0, baseDir{}, nil
	}
	nid, ft := uint64(base.super.root), uint8(ftDir)
	if e.Path != "" {
		var err error
		if nid, ft, err = w.stack.top().base.find(name); err != nil {
			return 0, baseDir{}, fmt.Errorf("%w: %w", ErrBase, err)
		}
	}
	if want, _, _ := kindOf(e.Type); nid < firstNID || nid >= 1<<32 || ft != want {
		return 0, baseDir{}, nil
	}
	if ft != ftDir {
		return uint32(nid), baseDir{}, nil
	}
	d, err := base.openBase(nid)
	if err != nil {
		return 0, baseDir{}, fmt.Errorf("%w: %w", ErrBase, err)
	}
	return uint32(nid), d, nil
}

// assign turns wishes into places. The root goes first: its nid has only 16 bits
// in the superblock.
func (w *writer) assign(p *placer) error {
	if w.nids[0] > maxRootNID {
		w.nids[0] = 0
	}
	if err := w.keep(p, 0); err != nil {
		return err
	}
	if w.nids[0] == 0 {
		if err := w.take(p, 0); err != nil {
			return err
		}
	}
	if w.nids[0] > maxRootNID {
		return fmt.Errorf("erofs: root at %d: %w", w.nids[0], ErrTooLarge)
	}
	for i := 1; i < len(w.nids); i++ {
		if err := w.keep(p, i); err != nil {
			return err
		}
	}
	for i := 1; i < len(w.nids); i++ {
		if w.slots[i] == 0 {
			w.nids[i] = w.nids[w.nids[i]] // the first name's, which is before it
		} else if w.nids[i] == 0 {
			if err := w.take(p, i); err != nil {
				return err
			}
		}
	}
	w.area = uint64(p.end())
	return nil
}
