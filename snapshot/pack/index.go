package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/roost-ci/roost/snapshot"
)

// An index file. Numbers are little endian.
//
//	0         7         8               40                  72      73             81              89
//	+---------+---------+---------------+-------------------+-------+--------------+---------------+------+-----------------+
//	| RSTINDX | version | base manifest | snapshot manifest | codec | u64 bytes of | u64 bytes of  | body | SHA-256 of all  |
//	|         | 1       |               |                   |       | body, plain  | body, stored  |      | bytes before it |
//	+---------+---------+---------------+-------------------+-------+--------------+---------------+------+-----------------+
//
// The body is four tables, each behind its count: packs, frames, chunks, changes.
const (
	indexMagic = "RSTINDX"
	// indexV1 is the first: packs, frames, chunks, changes in one compressed body.
	indexV1     = 1
	indexHeader = 89
)

// WriteIndex writes ix and returns the SHA-256 of what was written, which is the
// blob's name. Chunks are written in the order in which the changes use them. Each
// file must be hashed and each of its chunks must be in ix.Chunks.
func WriteIndex(w io.Writer, ix *Index) (snapshot.Digest, error) {
	body, err := appendBody(nil, ix)
	if err != nil {
		return snapshot.Digest{}, fmt.Errorf("index: %w", err)
	}
	return writeBody(w, ix, body)
}

// writeBody writes an index with that body. Of ix it looks at Base and Manifest.
func writeBody(w io.Writer, ix *Index, body []byte) (snapshot.Digest, error) {
	if int64(len(body)) > maxBody {
		return snapshot.Digest{}, fmt.Errorf("index: %d bytes, more than %d", len(body), int64(maxBody))
	}
	codec, stored := CodecRaw, body
	if z := compress(make([]byte, 0, len(body)), body); len(z) < len(body) && len(body) <= maxRatio*len(z) {
		codec, stored = CodecZstd, z
	}
	out := &summed{w: w, h: sha256.New()}
	out.b = append(out.b, indexMagic...)
	out.b = append(out.b, indexV1)
	out.b = append(out.b, ix.Base[:]...)
	out.b = append(out.b, ix.Manifest[:]...)
	out.b = append(out.b, codec)
	out.b = binary.LittleEndian.AppendUint64(out.b, uint64(len(body)))
	out.b = binary.LittleEndian.AppendUint64(out.b, uint64(len(stored)))
	if err := out.flush(1); err != nil {
		return snapshot.Digest{}, fmt.Errorf("index: %w", err)
	}
	out.b = stored // as it is: it may be large
	d, err := out.close()
	if err != nil {
		return snapshot.Digest{}, fmt.Errorf("index: %w", err)
	}
	return d, nil
}

// ReadIndex reads an index up to the end of r. Everything in it refers to
// something that is there; changes are sorted and valid one by one. It uses memory
// in proportion to what it reads, whatever that says of itself. Damage is a
// *snapshot.CorruptError, a later version wraps snapshot.ErrNewerFormat.
func ReadIndex(r io.Reader) (*Index, error) {
	b, err := readAll(r, maxBody+indexHeader+sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	ix, err := parseIndex(b)
	if err != nil {
		return nil, corrupt(indexWhat, sha256.Sum256(b), err)
	}
	return ix, nil
}

func parseIndex(b []byte) (*Index, error) {
	b, err := unseal(b, indexMagic, indexV1)
	if err != nil {
		return nil, err
	}
	if len(b) < indexHeader {
		return nil, errors.New("cut short")
	}
	ix := &Index{}
	copy(ix.Base[:], b[8:])
	copy(ix.Manifest[:], b[40:])
	plain, stored := binary.LittleEndian.Uint64(b[73:]), binary.LittleEndian.Uint64(b[81:])
	body := b[indexHeader:]
	if stored != uint64(len(body)) {
		return nil, fmt.Errorf("body has %d bytes and should have %d", len(body), stored)
	}
	if err := checkBody(b[72], plain, stored); err != nil {
		return nil, err
	}
	if b[72] == CodecZstd {
		if body, err = decompress(make([]byte, 0, plain), body); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
	}
	if err := readBody(&cursor{b: body}, ix); err != nil {
		return nil, err
	}
	return ix, nil
}

// checkBody checks what an index says of its body.
func checkBody(codec byte, plain, stored uint64) error {
	switch codec {
	case CodecRaw:
		if plain != stored {
			return fmt.Errorf("body is stored raw in %d bytes and should have %d", stored, plain)
		}
	case CodecZstd:
		if plain <= stored || plain > maxRatio*stored || plain > maxBody {
			return fmt.Errorf("body says that it grows from %d to %d bytes", stored, plain)
		}
	default:
		return fmt.Errorf("body has codec %d: %w", codec, snapshot.ErrNewerFormat)
	}
	return nil
}
