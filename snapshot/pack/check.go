package pack

import (
	"errors"
	"fmt"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// Limits of the formats, beside those of package snapshot.
const (
	maxXattrName = 255      // as in Linux
	maxEntries   = 16 << 20 // in one manifest or one list of changes
	maxPackBytes = 1 << 30  // of one pack; ours have at most 12.1 MiB
	maxBody      = 1 << 30  // of a manifest, or of an index before compression
	maxRatio     = 16       // of an index's body; what compresses better is stored raw
	packHeader   = 8        // bytes before a pack's first frame
	manifestWhat = "manifest"
	indexWhat    = "index"
)

var errUnhashed = errors.New("content not hashed yet")

// badPath says what is wrong with p as a path in a tree, "" if nothing is.
func badPath(p string) string {
	if p == "" {
		return ""
	}
	if len(p) > snapshot.MaxPathBytes {
		return "too long"
	}
	if strings.IndexByte(p, 0) >= 0 {
		return "has a NUL byte"
	}
	begin := 0
	for i := 0; i <= len(p); i++ { // not by strings.Cut: names are short
		if i < len(p) && p[i] != '/' {
			continue
		}
		switch name := p[begin:i]; {
		case name == "":
			return "has an empty component"
		case name == "." || name == "..":
			return "is not clean"
		case len(name) > snapshot.MaxNameBytes:
			return "has a component that is too long"
		}
		begin = i + 1
	}
	return ""
}

// checkEntry checks what can be checked of an entry by itself, path aside. What
// entries say of each other is for package tree.
func checkEntry(e *snapshot.Entry) error {
	switch {
	case e.Type < snapshot.TypeDir || e.Type > snapshot.TypeSocket:
		return fmt.Errorf("unknown type %d", e.Type)
	case e.Mode&^snapshot.ModeMask != 0:
		return fmt.Errorf("mode %o has bits that are not kept", e.Mode)
	case e.Link != "" && e.Type == snapshot.TypeDir:
		return errors.New("a directory can't have two names")
	}
	if e.Link != "" {
		if why := badPath(e.Link); why != "" {
			return fmt.Errorf("link %q: %s", e.Link, why)
		}
		if snapshot.ComparePaths(e.Link, e.Path) > 0 {
			return fmt.Errorf("link %q is not the first of the file's names", e.Link)
		}
	}
	if e.Type == snapshot.TypeSymlink {
		switch {
		case e.Target == "":
			return errors.New("symlink without a target")
		case len(e.Target) > snapshot.MaxTargetBytes:
			return errors.New("symlink's target is too long")
		case strings.IndexByte(e.Target, 0) >= 0:
			return errors.New("symlink's target has a NUL byte")
		}
	} else if e.Target != "" {
		return fmt.Errorf("a %s can't have a target", e.Type)
	}
	if err := checkXattrs(e.Xattrs); err != nil {
		return err
	}
	return checkContent(e)
}

func checkXattrs(xs []snapshot.Xattr) error {
	if len(xs) > snapshot.MaxXattrs {
		return fmt.Errorf("%d extended attributes, more than %d", len(xs), snapshot.MaxXattrs)
	}
	for i, x := range xs {
		switch {
		case x.Name == "" || len(x.Name) > maxXattrName || strings.IndexByte(x.Name, 0) >= 0:
			return fmt.Errorf("bad name %q of an extended attribute", x.Name)
		case len(x.Value) > snapshot.MaxXattrBytes:
			return fmt.Errorf("extended attribute %q has %d bytes, more than %d", x.Name, len(x.Value), snapshot.MaxXattrBytes)
		case i > 0 && xs[i-1].Name >= x.Name:
			return fmt.Errorf("extended attribute %q out of order", x.Name)
		}
	}
	return nil
}

func checkContent(e *snapshot.Entry) error {
	if e.Type != snapshot.TypeFile {
		if e.Size != 0 || len(e.Chunks) != 0 {
			return fmt.Errorf("a %s can't have content", e.Type)
		}
		return nil
	}
	if e.Size < 0 {
		return fmt.Errorf("negative size %d", e.Size)
	}
	if !e.Hashed() {
		return errUnhashed
	}
	var end int64
	for _, c := range e.Chunks {
		if c.Len < 1 || c.Len > snapshot.MaxChunkBytes || c.Off < end || c.Off > e.Size || c.Len > e.Size-c.Off {
			return fmt.Errorf("chunk of %d bytes at %d does not fit in a file of %d bytes behind byte %d", c.Len, c.Off, e.Size, end)
		}
		end = c.Off + c.Len
	}
	return nil
}

// checkTables checks that packs, frames and chunks can be what they say and that
// every reference has something at its end. Reader and writer both call it, so
// nothing is written that can't be read. It returns the table of the chunks.
func checkTables(ix *Index) (ids idTable, err error) {
	seen := make(map[snapshot.Digest]struct{}, len(ix.Packs))
	for i, p := range ix.Packs {
		if p.Digest.IsZero() || p.Bytes <= packHeader || p.Bytes > maxPackBytes {
			return ids, fmt.Errorf("pack %d: %d bytes named %s", i, p.Bytes, p.Digest)
		}
		if _, dup := seen[p.Digest]; dup {
			return ids, fmt.Errorf("pack %d: listed twice", i)
		}
		seen[p.Digest] = struct{}{}
	}
	if err := checkFrames(ix); err != nil {
		return ids, err
	}
	ids = newIDTable(len(ix.Chunks), func(i int) *snapshot.Digest { return &ix.Chunks[i].ID })
	for i, c := range ix.Chunks {
		if c.Frame < 0 || c.Frame >= len(ix.Frames) {
			return ids, fmt.Errorf("chunk %d: no frame %d", i, c.Frame)
		}
		plain := ix.Frames[c.Frame].Plain
		if c.Len < 1 || c.Off > plain || c.Len > plain-c.Off {
			return ids, fmt.Errorf("chunk %d: %d bytes at %d leave the frame of %d bytes", i, c.Len, c.Off, plain)
		}
		if !ids.add(i) {
			return ids, fmt.Errorf("chunk %d: listed twice", i)
		}
	}
	return ids, nil
}

// checkFrames also refuses frames that overlap: each stored byte is decompressed
// at most once, which bounds the work that a small index can ask for.
func checkFrames(ix *Index) error {
	pack, end := -1, int64(0)
	for i, f := range ix.Frames {
		if f.Pack < 0 || f.Pack >= len(ix.Packs) || f.Pack < pack {
			return fmt.Errorf("frame %d: pack %d out of range or order", i, f.Pack)
		}
		if f.Pack != pack {
			pack, end = f.Pack, packHeader
		}
		switch bytes := ix.Packs[f.Pack].Bytes; {
		case f.Off < end || f.Off > bytes || int64(f.Stored) > bytes-f.Off:
			return fmt.Errorf("frame %d: %d bytes at %d do not fit in its pack", i, f.Stored, f.Off)
		case f.Plain < 1 || f.Plain > snapshot.MaxChunkBytes || f.Stored < 1:
			return fmt.Errorf("frame %d: %d bytes stored, %d plain", i, f.Stored, f.Plain)
		case f.Codec == CodecRaw && f.Stored != f.Plain:
			return fmt.Errorf("frame %d: raw, but %d bytes stored and %d plain", i, f.Stored, f.Plain)
		case f.Codec == CodecZstd && f.Stored >= f.Plain:
			return fmt.Errorf("frame %d: compressed from %d to %d bytes", i, f.Plain, f.Stored)
		case f.Codec > CodecZstd:
			return fmt.Errorf("frame %d: codec %d: %w", i, f.Codec, snapshot.ErrNewerFormat)
		}
		end = f.Off + int64(f.Stored)
	}
	return nil
}
