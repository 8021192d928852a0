package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/roost-ci/roost/snapshot"
)

// Manifests and indexes of millions of entries, without having them all in memory.
// What is read is checked as ReadManifest and ReadIndex do, but that the sums stand
// at the end of a file: who must not act on what was damaged checks the file's digest
// before, and here again.

// ManifestReader is ReadManifest entry by entry.
type ManifestReader struct {
	in   *sealedReader
	c    cursor
	r    entryReader
	left int
}

// NewManifestReader begins to read a manifest of size bytes.
func NewManifestReader(r io.Reader, size int64) (*ManifestReader, error) {
	m := &ManifestReader{r: entryReader{chunks: idCodec{}}}
	var err error
	if m.in, err = openSealed(r, size, manifestMagic, manifestV1); err != nil {
		return nil, fmt.Errorf("manifest: %w", readFailed(manifestWhat, err))
	}
	m.c = cursor{src: m.in, rest: m.in.left, gone: packHeader}
	m.left = m.c.count("number of entries", minEntry)
	if m.left > maxEntries {
		m.c.fail("%d entries, more than %d", m.left, maxEntries)
	}
	return m, m.failed()
}

// Len is how many entries are to come.
func (m *ManifestReader) Len() int { return m.left }

// Next fills in e with the next entry, which may be kept. Behind the last one it is
// io.EOF, and all sums are right.
func (m *ManifestReader) Next(e *snapshot.Entry) error {
	*e = snapshot.Entry{}
	if m.left == 0 {
		if m.c.end() == nil {
			m.c.err = m.in.end()
		}
		if err := m.failed(); err != nil {
			return err
		}
		return io.EOF
	}
	m.left--
	e.Path = m.r.path(&m.c)
	m.r.entry(&m.c, e)
	return m.failed()
}

// Digest is that of the manifest, once Next has said io.EOF.
func (m *ManifestReader) Digest() snapshot.Digest { return m.in.digest }

func (m *ManifestReader) failed() error {
	if m.c.err == nil {
		return nil
	}
	return fmt.Errorf("manifest: %w", readFailed(manifestWhat, m.c.err))
}

// readFailed makes damage of an error, but for one of reading, or of a later version.
func readFailed(what string, err error) error {
	var io *readError
	if errors.As(err, &io) {
		return io.err
	}
	if errors.Is(err, snapshot.ErrNewerFormat) {
		return err
	}
	return &snapshot.CorruptError{What: what, Why: err.Error()}
}

// sealedReader reads what stands between the header and the trailer of a file of ours.
type sealedReader struct {
	r      io.Reader
	h      hash.Hash
	left   int
	digest snapshot.Digest // of the whole file, after end
}

func openSealed(r io.Reader, size int64, magic string, version byte) (*sealedReader, error) {
	if size < packHeader+sha256.Size || size > maxBody+indexHeader+sha256.Size {
		return nil, fmt.Errorf("%d bytes", size)
	}
	s := &sealedReader{r: r, h: sha256.New(), left: int(size) - sha256.Size}
	head := make([]byte, packHeader)
	if _, err := io.ReadFull(s, head); err != nil {
		return nil, &readError{noEOF(err)}
	}
	return s, checkHeader(head, magic, version)
}

func (s *sealedReader) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.r.Read(p[:min(len(p), s.left)])
	s.h.Write(p[:n])
	s.left -= n
	return n, err
}

// end reads what was not asked for, and checks the sum and that nothing follows.
func (s *sealedReader) end() error {
	if _, err := io.Copy(io.Discard, s); err != nil {
		return &readError{err}
	}
	if s.left > 0 {
		return &readError{io.ErrUnexpectedEOF}
	}
	sum := s.h.Sum(nil)
	trailer := make([]byte, len(sum)+1)
	switch n, err := io.ReadFull(s.r, trailer); {
	case err == nil:
		return errors.New("bytes too many")
	case n < len(sum):
		return &readError{noEOF(err)}
	}
	if !bytes.Equal(sum, trailer[:len(sum)]) {
		return errors.New("checksum does not match")
	}
	s.h.Write(trailer[:len(sum)])
	s.h.Sum(s.digest[:0])
	return nil
}

// IndexReader is ReadIndex change by change.
type IndexReader struct {
	// Tables is the index without its changes.
	Tables *Index

	in   *sealedReader
	z    *zstd.Decoder
	c    cursor
	r    entryReader
	left int
}

// NewIndexReader begins to read an index of size bytes. In memory are its tables, some
// 60 bytes for each chunk. The caller calls Close in the end.
func NewIndexReader(r io.Reader, size int64) (*IndexReader, error) {
	x := &IndexReader{Tables: &Index{}}
	if err := x.open(r, size); err != nil {
		x.Close()
		return nil, fmt.Errorf("index: %w", readFailed(indexWhat, err))
	}
	return x, nil
}

func (x *IndexReader) open(r io.Reader, size int64) (err error) {
	if x.in, err = openSealed(r, size, indexMagic, indexV1); err != nil {
		return err
	}
	head := make([]byte, indexHeader-packHeader)
	if _, err := io.ReadFull(x.in, head); err != nil {
		return &readError{noEOF(err)}
	}
	ix := x.Tables
	copy(ix.Base[:], head)
	copy(ix.Manifest[:], head[32:])
	plain, stored := binary.LittleEndian.Uint64(head[65:]), binary.LittleEndian.Uint64(head[73:])
	if stored != uint64(x.in.left) {
		return fmt.Errorf("body has %d bytes and should have %d", x.in.left, stored)
	}
	if err := checkBody(head[64], plain, stored); err != nil {
		return err
	}
	x.c = cursor{src: x.in, rest: int(plain)}
	if head[64] == CodecZstd {
		if x.z, err = decompressor(x.in, plain); err != nil {
			return err
		}
		x.c.src = x.z
	}
	readTables(&x.c, ix)
	if x.c.err == nil {
		_, x.c.err = checkTables(ix)
	}
	x.left = countChanges(&x.c)
	x.r = entryReader{chunks: &refCodec{chunks: ix.Chunks}}
	return x.c.err
}

// Len is how many changes are to come.
func (x *IndexReader) Len() int { return x.left }

// Next fills in ch with the next change, which may be kept. Behind the last one it is
// io.EOF, and all sums are right.
func (x *IndexReader) Next(ch *snapshot.Change) error {
	*ch = snapshot.Change{}
	if x.left == 0 {
		if x.c.end() == nil && x.z != nil {
			if n, err := x.z.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
				x.c.err = errSize
			}
		}
		return x.end()
	}
	x.left--
	readChange(&x.c, &x.r, ch)
	return x.failed()
}

// Skip reads to the end without looking at the changes that are left.
func (x *IndexReader) Skip() error {
	if err := x.end(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (x *IndexReader) end() error {
	if x.c.err == nil {
		x.c.err = x.in.end()
	}
	if err := x.failed(); err != nil {
		return err
	}
	return io.EOF
}

// Digest is that of the index, once all of it was read.
func (x *IndexReader) Digest() snapshot.Digest { return x.in.digest }

// Close lets go of what reading took.
func (x *IndexReader) Close() {
	if x.z != nil {
		x.z.Close()
	}
}

func (x *IndexReader) failed() error {
	if x.c.err == nil {
		return nil
	}
	return fmt.Errorf("index: %w", readFailed(indexWhat, x.c.err))
}

// bodyWindow is more than the matches in a body of ours go back.
const bodyWindow = 8 << 20

// decompressor decompresses a body as decompress does, without having all of it in
// memory: it says of itself that matches may go back to its first byte, and ours don't.
// Those of somebody else that do are an error.
func decompressor(r io.Reader, plain uint64) (*zstd.Decoder, error) {
	head := make([]byte, zstd.HeaderMaxSize)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, &readError{noEOF(err)}
	}
	var h zstd.Header
	if err := h.Decode(head[:n]); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if h.Skippable || !h.SingleSegment || !h.HasFCS || h.FrameContentSize != plain || h.DictionaryID != 0 {
		return nil, errSize
	}
	rest := head[:n]
	if plain > bodyWindow {
		// The same frame with a window instead of a single segment.
		slim := binary.LittleEndian.AppendUint32(nil, 0xFD2FB528)
		flags := byte(3 << 6) // eight bytes of size
		if h.HasCheckSum {
			flags |= 1 << 2
		}
		slim = append(slim, flags, (23-10)<<3) // 2^23 is bodyWindow
		slim = binary.LittleEndian.AppendUint64(slim, plain)
		rest = append(slim, head[h.HeaderSize:n]...)
	}
	d, err := zstd.NewReader(io.MultiReader(bytes.NewReader(rest), r), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(bodyWindow), zstd.WithDecoderMaxMemory(maxBody))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return d, nil
}
