package erofs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// Options of Write.
type Options struct {
	// Manifest is the digest of the tree. The image's UUID is made of it, so that
	// no two trees share one.
	Manifest snapshot.Digest
	// Devices are the tags of the bundles that extents refer to, in order: at most
	// 64 bytes each, for the reader of a device table; nothing depends on them.
	Devices []string
	// Base is the image of the tree that this one was made from. Paths that both
	// have keep their inode numbers. Nil for none.
	Base io.ReaderAt
	// Scratch, if set, is asked for a file when inodes take so many bytes; it is closed
	// in the end. nil keeps them in memory.
	Scratch func(bytes int64) (Scratch, error)
	// BlockBits is the binary logarithm of the block size, 0 for DefaultBlockBits.
	// Why 512: for 20,000 files with a mean of 5 KB, bundles take 1.06 times the
	// files' bytes, with blocks of 4096 it is 1.54 times, and the image is 1.5 times
	// as large. Reading them all after a mount takes as long; with nothing cached it
	// is 1.0 to 1.4 times as long (BenchmarkBlocks).
	BlockBits uint8
}

// Info is what Write made.
type Info struct {
	UUID   [16]byte
	Bytes  int64 // of the image
	Inodes int64
	// Kept is how many inodes have the number that they have in Base.
	Kept int64
	// Devices is how much of each device the image refers to.
	Devices []Need
}

// Write writes the image of tree to w, which must be empty: a new file. What is
// in it when an error is returned can't be mounted. Nothing is synced.
//
// Memory: about 10 bytes an entry, and, without a scratch file, 100 to 200 more; and the
// directories on the path to the current one.
func Write(ctx context.Context, w io.WriterAt, o Options, tree Tree) (Info, error) {
	if o.BlockBits == 0 {
		o.BlockBits = DefaultBlockBits
	}
	wr := &writer{ctx: ctx, o: o, block: o.BlockBits, out: out{ctx: ctx, w: w}}
	if err := wr.checkOptions(); err != nil {
		return Info{}, err
	}
	if err := wr.place(tree); err != nil {
		return Info{}, err
	}
	defer wr.close()
	if err := wr.write(tree); err != nil {
		return Info{}, err
	}
	return wr.finish()
}

// UUID is that of every image of the tree with this manifest.
func UUID(manifest snapshot.Digest) (u [16]byte) {
	sum := sha256.Sum256(append([]byte("roost erofs image of "), manifest[:]...))
	copy(u[:], sum[:])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8, variant of RFC 9562
	return u
}

// writer makes one image.
type writer struct {
	ctx   context.Context // of this Write alone
	o     Options
	block uint8
	out   out

	// Of each entry in order: its nid, 0 while it is not decided, and its inode's
	// slots with the flags beside them.
	nids, slots []uint32
	groups      map[string]int // entry of a group's first name
	total, area uint64         // slots in use, and slots from 0 to the last of them

	at     int // the current entry
	x      xattrs
	shape  shape
	stack  stack
	inodes *area // slots from 0 on
	one    []byte
	count  int64
	kept   int64
	needs  []int64 // bytes of each device

	scratch Scratch // nil: there is none
}

func (w *writer) close() {
	if w.scratch != nil {
		w.scratch.Close() //nolint:errcheck // nobody wants it any more
	}
}

func (w *writer) checkOptions() error {
	if w.block < minBlockBits || w.block > maxBlockBits {
		return fmt.Errorf("erofs: blocks of 2^%d bytes", w.block)
	}
	if len(w.o.Devices) > maxDevices {
		return fmt.Errorf("erofs: %d devices, at most %d", len(w.o.Devices), maxDevices)
	}
	for _, t := range w.o.Devices {
		if t == "" || len(t) > tagSize || strings.IndexByte(t, 0) >= 0 {
			return fmt.Errorf("erofs: device tag %.100q", t)
		}
	}
	w.needs = make([]int64, len(w.o.Devices))
	return nil
}

// each walks tree, with the context and the position looked after.
func (w *writer) each(tree Tree, visit func(name string, e *snapshot.Entry, c Content) error, leave func() error) error {
	w.at, w.stack = 0, stack{frames: w.stack.frames[:0]}
	err := tree(func(e *snapshot.Entry, c Content) error {
		if w.at%1024 == 0 {
			quiet.Step(w.ctx)
			if err := w.ctx.Err(); err != nil {
				return err
			}
		}
		name, err := w.stack.enter(e, leave)
		if err == nil {
			err = visit(name, e, c)
		}
		if err != nil {
			return &EntryError{Path: e.Path, Err: err}
		}
		w.at++
		return nil
	})
	if err != nil {
		return err
	}
	if w.at == 0 {
		return fmt.Errorf("erofs: %w: no entries", ErrOrder)
	}
	for ; w.stack.depth > 0; w.stack.depth-- {
		if err := leave(); err != nil {
			return err
		}
	}
	return nil
}

// isFirst reports whether e is an inode of its own or the first name of one, and
// returns the first name's entry otherwise.
func (w *writer) isFirst(e *snapshot.Entry) (first int, ok bool, err error) {
	if e.Link == "" {
		return 0, true, nil
	}
	if e.Link == e.Path {
		return 0, true, nil
	}
	i, seen := w.groups[e.Link]
	if !seen {
		return 0, false, fmt.Errorf("a link to %.300q, which is not a first name before it", e.Link)
	}
	return i, false, nil
}
