package view

import (
	"context"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Tree is gone through, be it in memory or not.
type Tree = tree.Tree

// Changes are gone through like a Tree.
type Changes = tree.Changes

// TreeOf is a tree that is in memory.
func TreeOf(m *snapshot.Manifest) Tree { return tree.Of(m) }

// ChangesOf is a list that is in memory.
func ChangesOf(list []snapshot.Change) Changes { return tree.ChangesOf(list) }

// TreeSpec is what UnpackTree takes.
type TreeSpec struct {
	ID   snapshot.ID
	Base *Layer // nil: the empty tree
	// New are the entries that differ from the base's, N or so: of the empty tree all.
	New   Tree
	N     int
	Fill  func(ctx context.Context, write PiecesFunc) error // PiecesFunc counts what New has
	Meter *Meter
	// Whole makes the whole tree of New with its sources. Its image, on Base, is written
	// while the content comes. nil: that is left to ImageTree, and New is the whole tree.
	Whole func(located Tree) Tree
	// Later leaves it to Sync to bring the content to disk.
	Later bool
}

// Streamer is a driver that unpacks trees that should not be in memory.
type Streamer interface {
	// UnpackTree is Unpack, or, if there is a Whole, UnpackShown, of a tree that is valid.
	// located is New with its sources.
	UnpackTree(ctx context.Context, spec TreeSpec) (l *Layer, located Tree, err error)
}

// TreeImager is an Imager for such trees.
type TreeImager interface {
	// ImageTree is Image.
	ImageTree(ctx context.Context, l, base *Layer, t Tree) (*Layer, error)
}
