//go:build !linux

package view

import (
	"context"
	"os"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// clone copies the tree at from, but for the look of its directories.
func (b *builder) clone(ctx context.Context, from string, mode func(string, uint32) uint32) error {
	src, err := newPlacer(from, false)
	if err != nil {
		return err
	}
	defer src.close()
	b.stamps = nil // taken by a walk
	links := map[inodeKey]string{}
	return tree.Walk(ctx, from, tree.ScanOptions{Owners: b.p.owners}, func(it *tree.Item) error {
		e := it.Entry
		if it.Inode.Char || len(it.Special) > 0 {
			return &snapshot.UnsupportedError{Path: e.Path, What: "overlay mark in a tree that is no layer"}
		}
		if mode != nil {
			e.Mode = mode(e.Path, e.Mode)
		}
		key := inodeKey{it.Inode.Dev, it.Inode.Ino}
		if e.Type == snapshot.TypeFile && it.Inode.Nlink > 1 {
			if first, ok := links[key]; ok {
				return b.link(first, &e)
			}
			links[key] = e.Path
		}
		return b.place(&e, func(dst *os.File) error {
			f, err := src.open(e.Path, os.O_RDONLY)
			if err != nil {
				return err
			}
			defer f.Close() //nolint:errcheck // only read from
			return b.content(ctx, dst, f, e.Size, b.meter)
		})
	})
}
