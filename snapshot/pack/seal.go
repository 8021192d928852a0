package pack

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/roost-ci/roost/snapshot"
)

// readAll reads r to its end, at most limit bytes. It allocates as bytes come, not
// as somebody says that they will.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	var buf bytes.Buffer
	n, err := buf.ReadFrom(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return buf.Bytes(), nil
}

// unseal checks magic, version and trailer of a whole file and returns it without
// the trailer. The version comes before the checksum: what follows it may look
// different in a later one.
func unseal(b []byte, magic string, version byte) ([]byte, error) {
	if err := checkHeader(b, magic, version); err != nil {
		return nil, err
	}
	n := len(b) - sha256.Size
	if n < packHeader {
		return nil, errors.New("cut short")
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return nil, errors.New("checksum does not match")
	}
	return b[:n], nil
}

func checkHeader(b []byte, magic string, version byte) error {
	if len(b) < packHeader {
		return errors.New("cut short")
	}
	if string(b[:len(magic)]) != magic {
		return fmt.Errorf("starts with %q, not %q", b[:len(magic)], magic)
	}
	if v := b[len(magic)]; v > version {
		return fmt.Errorf("format version %d, this one reads up to %d: %w", v, version, snapshot.ErrNewerFormat)
	} else if v == 0 {
		return errors.New("format version 0 never existed")
	}
	return nil
}

// corrupt says what was damaged, unless it is no damage but a later version.
func corrupt(what string, d snapshot.Digest, err error) error {
	if errors.Is(err, snapshot.ErrNewerFormat) {
		return fmt.Errorf("%s %s: %w", what, d, err)
	}
	return &snapshot.CorruptError{What: what, Name: d.String(), Why: err.Error()}
}
