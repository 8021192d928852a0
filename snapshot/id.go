package snapshot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
)

// Digest is a SHA-256, or an HMAC-SHA-256 where the name of the field says that
// it is keyed. The zero Digest names nothing.
type Digest [32]byte

// String returns the digest as 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether d names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// Compare orders digests bytewise.
func (d Digest) Compare(o Digest) int { return bytes.Compare(d[:], o[:]) }

// MarshalText writes String, and nothing for the zero Digest.
func (d Digest) MarshalText() ([]byte, error) {
	if d.IsZero() {
		return []byte{}, nil
	}
	return []byte(d.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	p, err := ParseDigest(string(b))
	if err != nil {
		return err
	}
	*d = p
	return nil
}

// ParseDigest reads 64 lower-case hexadecimal digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 64 {
		return d, fmt.Errorf("digest %.80q: want 64 hexadecimal digits, got %d characters", s, len(s))
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return d, fmt.Errorf("digest %q: %q is not a lower-case hexadecimal digit", s, c)
		}
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return d, fmt.Errorf("digest %q: %w", s, err)
	}
	return d, nil
}

// ID is the random name of a snapshot, a view, an attempt or any other thing
// that must have a name before it has a digest. It is always 26 characters of
// [0-9a-z], so it can be a file name anywhere; names given by people never are.
type ID string

// idLen is the length of an ID: 26 base-36 digits hold 134 random bits.
const idLen = 26

// ErrBadID is returned by ParseID.
var ErrBadID = errors.New("not an id: want 26 characters of 0-9a-z")

// NewID draws an ID from r, which must be a cryptographic source outside tests.
func NewID(r io.Reader) (ID, error) {
	var b [18]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", fmt.Errorf("random id: %w", err)
	}
	s := new(big.Int).SetBytes(b[:]).Text(36)
	for len(s) < idLen {
		s = "0" + s
	}
	return ID(s[len(s)-idLen:]), nil
}

// ParseID checks that s is an ID. Everything that came from outside must pass it
// before it may become part of a path.
func ParseID(s string) (ID, error) {
	if len(s) != idLen {
		return "", fmt.Errorf("%.80q: %w", s, ErrBadID)
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return "", fmt.Errorf("%q: %w", s, ErrBadID)
		}
	}
	return ID(s), nil
}
