package view

import (
	"context"

	"github.com/roost-ci/roost/snapshot"
)

// Tree calls fn for each entry of a tree, in the order of a manifest, and returns fn's
// first error as it is. It can be called again, and says the same then. What fn is given
// is fn's only until it returns; strings, chunks and attributes may be kept.
type Tree func(fn func(e *snapshot.Entry) error) error

// TreeOf is a tree that is in memory.
func TreeOf(m *snapshot.Manifest) Tree {
	return func(fn func(e *snapshot.Entry) error) error {
		for i := range m.Entries {
			e := m.Entries[i]
			if err := fn(&e); err != nil {
				return err
			}
		}
		return nil
	}
}

// Streamer is an Imager for trees that should not be in memory.
type Streamer interface {
	// UnpackTree is Unpack of a whole tree of n entries, which is valid. located is the
	// tree with its sources. WriteFunc counts its entries.
	UnpackTree(ctx context.Context, id snapshot.ID, n int, t Tree,
		fill func(ctx context.Context, write WriteFunc) error, m *Meter) (l *Layer, located Tree, err error)
	// ImageTree is Image.
	ImageTree(ctx context.Context, l, base *Layer, t Tree) (*Layer, error)
}
