package erofs

import (
	"errors"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// ErrBase says that Options.Base can't be read. Write would do without it.
var ErrBase = errors.New("image of the base")

// Bounds on the room that keeping places may leave unused: an image with more
// slots than maxWaste for each one in use, and a megabyte, gets new places
// throughout. So does one whose root, having grown, finds none with a small
// number.
const (
	maxWaste   = 4
	wasteSlots = 1 << 20 / slotSize
)

// What stands in writer.slots besides the number of an inode's slots.
const (
	inlineFlag = 1 << 31 // a symlink's target is among them and must not cross a block
	linkFlag   = 1 << 30 // no inode but a later name of the entry with this number
	slotsMask  = linkFlag - 1
)

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
	if w.area <= maxWaste*w.total+wasteSlots && w.nids[0] <= maxRootNID {
		return nil
	}
	clear(w.nids)
	w.kept = 0
	return w.assign(&placer{})
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
		w.nids, w.slots = append(w.nids, 0), append(w.slots, linkFlag|uint32(first))
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

// assign turns wishes into places. Without any, the root gets the first one.
func (w *writer) assign(p *placer) error {
	for i := range w.nids {
		w.keep(p, i)
	}
	for i := range w.nids {
		if s := w.slots[i]; s&linkFlag != 0 {
			w.nids[i] = w.nids[s&slotsMask] // the first name is before it
		} else if w.nids[i] == 0 {
			if err := w.take(p, i); err != nil {
				return err
			}
		}
	}
	w.area = p.end()
	return nil
}

// keep gives entry i the place that it wishes for, or takes the wish away.
func (w *writer) keep(p *placer, i int) {
	nid := w.nids[i]
	if nid == 0 || w.slots[i]&linkFlag != 0 {
		return
	}
	if w.fits(i, nid) && p.keep(nid, w.slots[i]&slotsMask) {
		w.kept++
		return
	}
	w.nids[i] = 0
}

func (w *writer) take(p *placer, i int) (err error) {
	w.nids[i], err = p.take(w.slots[i]&slotsMask, func(nid uint32) bool { return w.fits(i, nid) })
	return err
}

// fits reports whether a target that stands behind the inode of entry i would lie
// in one block. A slot never crosses a block, so whole slots can be looked at.
func (w *writer) fits(i int, nid uint32) bool {
	s := w.slots[i]
	if s&inlineFlag == 0 {
		return true
	}
	first, last := uint64(nid)+inodeSize/slotSize, uint64(nid)+uint64(s&slotsMask)-1
	return first*slotSize>>w.block == last*slotSize>>w.block
}
