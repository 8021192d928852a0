package view

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"

	"github.com/roost-ci/roost/snapshot"
)

// An image file ends with its key and a checksum: magic "RSTISUM\x02", the key padded
// with zeros to 91 bytes, and the CRC-32C of all before, little endian. Version 1 has no
// key, and the checksum is of what is before the magic. The kernel reads no further than
// the image itself says, and believes nearly all of that: it is looked at here, before
// each mount.
const (
	imageSumMagic = "RSTISUM\x02"
	oldSumMagic   = "RSTISUM\x01"
	imageSumBytes = int64(len(imageSumMagic)) + keyBytes + 4
	oldSumBytes   = int64(len(oldSumMagic)) + 4
)

// sumImage appends key and checksum to a written image.
func sumImage(f *os.File, key string) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	sum, err := crcOf(f, fi.Size())
	if err != nil {
		return err
	}
	b := make([]byte, imageSumBytes-4, imageSumBytes)
	copy(b[copy(b, imageSumMagic):], key)
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(sum, castagnoli, b))
	_, err = f.WriteAt(b, fi.Size())
	return err
}

// checkImage compares an image with its checksum and returns its key, "" if it has
// none.
func checkImage(name string) (key string, err error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return "", &snapshot.CorruptError{What: "image", Name: name, Why: "the file is gone"}
	}
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	tail := make([]byte, min(imageSumBytes, fi.Size()))
	if _, err := f.ReadAt(tail, fi.Size()-int64(len(tail))); err != nil {
		return "", err
	}
	upTo := fi.Size() - 4 // what the checksum is of
	switch {
	case int64(len(tail)) == imageSumBytes && string(tail[:len(imageSumMagic)]) == imageSumMagic:
		key = string(bytes.TrimRight(tail[len(imageSumMagic):imageSumBytes-4], "\x00"))
	case int64(len(tail)) >= oldSumBytes && string(tail[len(tail)-int(oldSumBytes):len(tail)-4]) == oldSumMagic:
		upTo = fi.Size() - oldSumBytes
	default:
		return "", &snapshot.CorruptError{What: "image", Name: name, Why: "it does not end as an image does"}
	}
	sum, err := crcOf(f, upTo)
	if err != nil {
		return "", err
	}
	if binary.LittleEndian.Uint32(tail[len(tail)-4:]) != sum {
		return "", &snapshot.CorruptError{What: "image", Name: name, Why: "its checksum is wrong"}
	}
	return key, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crcOf(r io.ReaderAt, n int64) (uint32, error) {
	h := crc32.New(castagnoli)
	if _, err := io.CopyBuffer(h, io.NewSectionReader(r, 0, n), make([]byte, 1<<20)); err != nil {
		return 0, err
	}
	return h.Sum32(), nil
}
