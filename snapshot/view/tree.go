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
		var e snapshot.Entry // one for all: fn has it until it returns
		for i := range m.Entries {
			e = m.Entries[i]
			if err := fn(&e); err != nil {
				return err
			}
		}
		return nil
	}
}

// Manifest has the tree in memory; n is about how many entries it has.
func (t Tree) Manifest(n int) (*snapshot.Manifest, error) {
	m := &snapshot.Manifest{Entries: make([]snapshot.Entry, 0, n)}
	return m, t(func(e *snapshot.Entry) error {
		m.Entries = append(m.Entries, *e)
		return nil
	})
}

// TreeSpec is what UnpackTree takes.
type TreeSpec struct {
	ID   snapshot.ID
	Base *Layer // nil: the empty tree
	// New are the entries that differ from the base's, N or so: of the empty tree all.
	New   Tree
	N     int
	Fill  func(ctx context.Context, write WriteFunc) error // WriteFunc counts what New has
	Meter *Meter
	// Whole makes the whole tree of New with its sources. Its image, on Base, is written
	// while the content comes. nil: that is left to ImageTree.
	Whole func(located Tree) Tree
	// Later leaves it to Sync to bring the content to disk.
	Later bool
}

// Streamer is an Imager for trees that should not be in memory.
type Streamer interface {
	// UnpackTree is Unpack, or, if there is a Whole, UnpackShown, of a tree that is valid.
	// located is New with its sources.
	UnpackTree(ctx context.Context, spec TreeSpec) (l *Layer, located Tree, err error)
	// ImageTree is Image.
	ImageTree(ctx context.Context, l, base *Layer, t Tree) (*Layer, error)
}
