package store

import (
	"context"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// parting stores changes in parts, and tells what the tree is that they make.
type parting struct {
	most int // entries in memory
	// tell is told each entry of the tree, in order, when its content is stored.
	tell func(e *snapshot.Entry) error
	// check may find out why a part could not be stored, or must not be. May be nil.
	check func(ctx context.Context, b *batch, failed bool) error
	// beside says that a part is stored while the next one is gathered. Then another
	// goroutine calls tell, check, and what the stream calls; one at a time.
	beside bool

	next, stored batch
	under        chan error // of what is being stored; nil: nothing is
}

// batch is one part.
type batch struct {
	part   []snapshot.Change
	ctimes []int64 // of the part's changes
	same   []unmoved
}

// unmoved is an entry that is as in the base, and stands before the at-th of a part's
// changes.
type unmoved struct {
	at    int
	entry snapshot.Entry
}

// put puts a change into the part, or an entry that did not change. Whoever began calls
// end, whatever happened.
func (p *parting) put(ctx context.Context, st *pack.Stream, ch *snapshot.Change, same *snapshot.Entry, ctime int64) error {
	b := &p.next
	if len(b.part)+len(b.same) >= p.most {
		if err := p.flush(ctx, st); err != nil {
			return err
		}
	}
	if same != nil {
		b.same = append(b.same, unmoved{len(b.part), *same})
		return nil
	}
	b.part, b.ctimes = append(b.part, *ch), append(b.ctimes, ctime)
	return nil
}

// end stores what is left, unless err says that something went wrong, and returns when
// nothing is being stored any more.
func (p *parting) end(ctx context.Context, st *pack.Stream, err error) error {
	if err == nil {
		err = p.flush(ctx, st)
	}
	if serr := p.settle(); err == nil {
		err = serr
	}
	return err
}

// flush stores the part once the one before is.
func (p *parting) flush(ctx context.Context, st *pack.Stream) error {
	if err := p.settle(); err != nil {
		return err
	}
	p.next, p.stored = p.stored, p.next
	if !p.beside {
		return p.store(ctx, st, &p.stored)
	}
	under := make(chan error, 1)
	p.under = under
	go func() { under <- p.store(ctx, st, &p.stored) }()
	return nil
}

// settle waits until nothing is being stored.
func (p *parting) settle() error {
	if p.under == nil {
		return nil
	}
	err := <-p.under
	p.under = nil
	return err
}

// store stores a part, and forgets it.
func (p *parting) store(ctx context.Context, st *pack.Stream, b *batch) error {
	err := st.AddAsOf(ctx, b.part, b.ctimes)
	if p.check != nil {
		if changed := p.check(ctx, b, err != nil); ctx.Err() == nil && changed != nil {
			err = changed // be it the reason or not
		}
	}
	if err != nil {
		return err
	}
	same := b.same
	for i := range b.part {
		for ; len(same) > 0 && same[0].at == i; same = same[1:] {
			if err := p.tell(&same[0].entry); err != nil {
				return err
			}
		}
		if b.part[i].Delete {
			continue
		}
		if err := p.tell(&b.part[i].Entry); err != nil {
			return err
		}
	}
	for i := range same {
		if err := p.tell(&same[i].entry); err != nil {
			return err
		}
	}
	clear(b.part)
	clear(b.same)
	b.part, b.ctimes, b.same = b.part[:0], b.ctimes[:0], b.same[:0]
	return nil
}
