package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// An agent gets its domains' keys with its jobs. A store that people use by
// itself is one domain, whose key lies in the file "key": who has it can read what
// was pushed and can find out whether a given content is in it.

// keyBytes is the length of a key that is made here.
const keyBytes = 32

// maxKeyFile bounds what is read of a key file.
const maxKeyFile = 1 << 10

// ErrNoKey says that a store has no key of its own yet.
var ErrNoKey = errors.New("the store has no key of its own")

func (s *Store) keyPath() string { return filepath.Join(s.dir, "key") }

// Key returns the key of the store's own domain, or ErrNoKey.
func (s *Store) Key() ([]byte, error) {
	key, err := ReadKey(s.keyPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoKey
	}
	return key, err
}

// MakeKey returns the key of the store's own domain, which is drawn the first
// time.
func (s *Store) MakeKey() ([]byte, error) {
	key, err := s.Key()
	if !errors.Is(err, ErrNoKey) {
		return key, err
	}
	key = make([]byte, keyBytes)
	if _, err := io.ReadFull(rand.Reader, key); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return key, s.SetKey(key)
}

// SetKey makes key that of the store's own domain, unless it has one.
func (s *Store) SetKey(key []byte) error {
	if _, err := s.Key(); !errors.Is(err, ErrNoKey) {
		return err
	}
	return WriteKey(s.keyPath(), key)
}

// KeyOf returns the key of the domain that a snapshot belongs to.
func (s *Store) KeyOf(id snapshot.ID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.layers[id]
	if !ok {
		return nil, missing("not held", id)
	}
	return l.key, nil
}

// ReadKey reads a key from a file: hexadecimal digits in one line.
func ReadKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) < 16 {
		return nil, fmt.Errorf("key: %s does not hold a key: want at least 32 hexadecimal digits in one line", path)
	}
	return key, nil
}

// WriteKey writes a key to a file that only its owner can read.
func WriteKey(path string, key []byte) error {
	err := durable.WriteFile(path, 0o600, func(w io.Writer) error {
		_, err := io.WriteString(w, hex.EncodeToString(key)+"\n")
		return err
	})
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	return nil
}
