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
	check func(ctx context.Context, failed bool) error

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

// put puts a change into the part, or an entry that did not change.
func (p *parting) put(ctx context.Context, st *pack.Stream, ch *snapshot.Change, same *snapshot.Entry, ctime int64) error {
	if len(p.part)+len(p.same) >= p.most {
		if err := p.flush(ctx, st); err != nil {
			return err
		}
	}
	if same != nil {
		p.same = append(p.same, unmoved{len(p.part), *same})
		return nil
	}
	p.part, p.ctimes = append(p.part, *ch), append(p.ctimes, ctime)
	return nil
}

// flush stores the part, and forgets it.
func (p *parting) flush(ctx context.Context, st *pack.Stream) error {
	err := st.AddAsOf(ctx, p.part, p.ctimes)
	if p.check != nil {
		if changed := p.check(ctx, err != nil); ctx.Err() == nil && changed != nil {
			err = changed // be it the reason or not
		}
	}
	if err != nil {
		return err
	}
	same := p.same
	for i := range p.part {
		for ; len(same) > 0 && same[0].at == i; same = same[1:] {
			if err := p.tell(&same[0].entry); err != nil {
				return err
			}
		}
		if p.part[i].Delete {
			continue
		}
		if err := p.tell(&p.part[i].Entry); err != nil {
			return err
		}
	}
	for i := range same {
		if err := p.tell(&same[i].entry); err != nil {
			return err
		}
	}
	clear(p.part)
	clear(p.same)
	p.part, p.ctimes, p.same = p.part[:0], p.ctimes[:0], p.same[:0]
	return nil
}
