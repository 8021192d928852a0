package view

import (
	"context"

	"github.com/roost-ci/roost/snapshot"
)

// UnpackSpec is what Unpack takes, and more.
type UnpackSpec struct {
	ID      snapshot.ID
	Base    *Layer // nil: the empty tree
	Changes []snapshot.Change
	Fill    func(ctx context.Context, write WriteFunc) error
	// FillPieces, if set, is called instead of Fill.
	FillPieces func(ctx context.Context, write PiecesFunc) error
	Meter      *Meter
	// Tree returns the whole tree. It is called once, when Changes have their Source
	// and SourceAt, while Fill runs.
	Tree func() (*snapshot.Manifest, error)
	// Later leaves it to Sync to bring the content to disk.
	Later bool
}

// PiecesFunc is a WriteFunc for pieces that may be stored as one.
type PiecesFunc func(pieces ...snapshot.Piece) error

// Unpacker is an Imager that writes the image of a layer while its content comes.
type Unpacker interface {
	// UnpackShown is Unpack, Locate and Image on Base in one. Of a layer that is to be
	// synced later, what it returns is whole for as long as the kernel runs; a power cut
	// may take any part of it until Sync has returned.
	UnpackShown(ctx context.Context, spec UnpackSpec) (*Layer, error)
}
