package view

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"

	"github.com/roost-ci/roost/snapshot"
)

// An image file ends with a checksum of all before it: magic "RSTISUM\x01" and the
// CRC-32C, little endian. The kernel reads no further than the image itself says,
// and believes nearly all of that: it is looked at here, before each mount.
const (
	imageSumMagic = "RSTISUM\x01"
	imageSumBytes = int64(len(imageSumMagic)) + 4
)

// sumImage appends the checksum to a written image.
func sumImage(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	sum, err := crcOf(f, fi.Size())
	if err != nil {
		return err
	}
	b := binary.LittleEndian.AppendUint32([]byte(imageSumMagic), sum)
	_, err = f.WriteAt(b, fi.Size())
	return err
}

// checkImage compares an image with its checksum.
func checkImage(name string) error {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return &snapshot.CorruptError{What: "image", Name: name, Why: "the file is gone"}
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	var tail [imageSumBytes]byte
	end := fi.Size() - imageSumBytes
	if end < 0 {
		return &snapshot.CorruptError{What: "image", Name: name, Why: "it is cut short"}
	}
	if _, err := f.ReadAt(tail[:], end); err != nil {
		return err
	}
	sum, err := crcOf(f, end)
	if err != nil {
		return err
	}
	n := len(imageSumMagic)
	if string(tail[:n]) != imageSumMagic || binary.LittleEndian.Uint32(tail[n:]) != sum {
		return &snapshot.CorruptError{What: "image", Name: name, Why: "its checksum is wrong"}
	}
	return nil
}

func crcOf(r io.ReaderAt, n int64) (uint32, error) {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if _, err := io.CopyBuffer(h, io.NewSectionReader(r, 0, n), make([]byte, 1<<20)); err != nil {
		return 0, err
	}
	return h.Sum32(), nil
}
