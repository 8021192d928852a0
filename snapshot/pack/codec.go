package pack

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Encoders and decoders keep tables of some megabytes, so they are used again.
// Each is used by one goroutine at a time: concurrency is the callers' business.
var (
	encoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(1),
			// Frames need no sum: each chunk's keyed digest is checked.
			zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
		if err != nil {
			panic(err) // only for options that contradict each other
		}
		return e
	}}
	decoders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxMemory(maxBody), zstd.WithDecoderMaxWindow(maxBody))
		if err != nil {
			panic(err) // only for options that contradict each other
		}
		return d
	}}
)

// compress appends p as one zstd frame that declares its size.
func compress(dst, p []byte) []byte {
	e := encoders.Get().(*zstd.Encoder)
	defer encoders.Put(e)
	return e.EncodeAll(p, dst)
}

var errSize = errors.New("decompresses to another size than it should")

// decompress fills dst, which is empty and has the capacity of the exact size that
// p must decompress to. What p says of its own size must agree before anything is
// decompressed, and no byte is written beyond the capacity whatever p does.
func decompress(dst, p []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(p); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if h.Skippable || !h.SingleSegment || !h.HasFCS || h.FrameContentSize != uint64(cap(dst)) || h.DictionaryID != 0 {
		return nil, errSize
	}
	d := decoders.Get().(*zstd.Decoder)
	defer decoders.Put(d)
	b, err := d.DecodeAll(p, dst)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if len(b) != cap(dst) {
		return nil, errSize
	}
	return b, nil
}

// encodeFrame returns p in the form that is smaller, in dst or as it is.
func encodeFrame(dst, p []byte) ([]byte, byte) {
	if worthIt(p) {
		if z := compress(dst, p); len(z) < len(p) {
			return z, CodecZstd
		}
	}
	return p, CodecRaw
}

// worthIt guesses whether p compresses, by a sixteenth of it. One sample that does
// is enough: the rest costs little, as zstd gives up quickly on what does not.
func worthIt(p []byte) bool {
	const every, sample = 128 << 10, 8 << 10
	if len(p) <= sample {
		return len(p) >= 32 // less never pays for the frame's header
	}
	for at := 0; at < len(p); at += every {
		s := p[at:min(at+sample, len(p))]
		if est := s2.EstimateBlockSize(s); est >= 0 && est <= len(s)*95/100 {
			return true
		}
	}
	return false
}
