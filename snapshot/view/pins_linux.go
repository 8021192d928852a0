package view

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
	"github.com/roost-ci/roost/snapshot/view/internal/fsmount"
)

// pins has for each view a hold on the image that it stands on. An image that was
// drawn anew meanwhile is mounted for its last view alone, and would be given up by the
// kernel in the middle of that one's seal: names, inodes and pages of all that its job
// looked at. A driver that nobody has any more, as in a process that ended, holds nothing:
// the collector closes its files.
type pins struct {
	mu sync.Mutex // guards on; not held across system calls
	on map[snapshot.ID]*os.File

	soon sync.WaitGroup // who drops behind
}

// keep holds the file system that is mounted at, until it is dropped.
func (p *pins) keep(id snapshot.ID, at string) {
	fs, err := fsmount.Pick(at)
	if err != nil {
		return // the seal takes longer
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on == nil {
		p.on = map[snapshot.ID]*os.File{}
	}
	p.on[id] = fs.Hold()
}

func (p *pins) drop(id snapshot.ID) {
	p.mu.Lock()
	f := p.on[id]
	delete(p.on, id)
	p.mu.Unlock()
	if f != nil {
		f.Close() //nolint:errcheck // nothing to lose
	}
}

// dropSoon is drop for a seal: nobody waits for it but dropAll.
func (p *pins) dropSoon(id snapshot.ID) { p.soon.Go(func() { p.drop(id) }) }

func (p *pins) dropAll() {
	p.mu.Lock()
	ids := slices.Collect(maps.Keys(p.on))
	p.mu.Unlock()
	for _, id := range ids {
		p.drop(id)
	}
	p.soon.Wait()
}

// Warm implements Imager.
func (d *Erofs) Warm(ctx context.Context, l *Layer) error {
	if l.Image == "" {
		return nil
	}
	_, done, err := d.images.use(ctx, l.Image)
	if err != nil {
		return fmt.Errorf("warm %s: %w", l.ID, err)
	}
	done()
	return nil
}

// pinBelow keeps the image of a view that is mounted on l's stack s. Where images are
// loop devices these are few, and none is kept for longer than it must be.
func (d *Overlay) pinBelow(id snapshot.ID, l *Layer, s stack) {
	if l != nil && l.Image != "" && d.images.method != erofs.Loop {
		d.pins.keep(id, s.lowers[len(l.Lowers)])
	}
}
