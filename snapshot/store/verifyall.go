package store

import (
	"context"

	"github.com/roost-ci/roost/snapshot"
)

// VerifyAll verifies snapshots and all that they stand on, each once, and each
// pack once. It goes on after damage, and calls each with every snapshot that it
// looked at and what is wrong with it, nil if nothing is. The error is about
// something else. p, which may be nil, counts the bytes that were read of packs and
// unpacked; how many there are is not known.
func (s *Store) VerifyAll(ctx context.Context, ids []snapshot.ID, p *Progress, each func(snapshot.ID, error)) error {
	v, seen := newVerified(p), map[snapshot.ID]bool{}
	for _, id := range ids {
		chain, err := s.wireChain(id)
		if err != nil {
			return err
		}
		for i := len(chain) - 1; i >= 0; i-- { // a base before what stands on it
			in := chain[i]
			if seen[in.ID] {
				continue
			}
			seen[in.ID] = true
			err := s.verifyOne(ctx, in.ID, v)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			each(in.ID, err)
		}
	}
	return nil
}
