package coordinator

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
)

// errSealed says that a payload can't be opened: it is damaged, or another key's.
var errSealed = errors.New("the job's payload can't be opened with the coordinator's key")

// vault seals the payloads of other systems' jobs. They hold tokens and secrets, so the
// database has only ciphertext, and the key lies beside it in a file of its own: a copy
// of the database opens nothing.
type vault struct {
	aead cipher.AEAD
	rand io.Reader
}

const keyBytes = 32

// openVault reads the key in dir, or makes it.
func openVault(dir string, rand io.Reader) (*vault, error) {
	name := filepath.Join(dir, "payload.key")
	key, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, keyBytes)
		if _, err := io.ReadFull(rand, key); err != nil {
			return nil, err
		}
		err = durable.WriteFile(name, 0o600, func(w io.Writer) error {
			_, err := w.Write(key)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	if len(key) != keyBytes {
		return nil, fmt.Errorf("%s: want %d bytes, found %d: put the right file back, or remove it if no job waits", name, keyBytes, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &vault{aead: aead, rand: rand}, err
}

// seal encrypts a payload for a job: the nonce, then AES-256-GCM. It opens for no
// other job.
func (v *vault) seal(job string, plain []byte) ([]byte, error) {
	nonce := make([]byte, v.aead.NonceSize(), v.aead.NonceSize()+len(plain)+v.aead.Overhead())
	if _, err := io.ReadFull(v.rand, nonce); err != nil {
		return nil, err
	}
	return v.aead.Seal(nonce, nonce, plain, []byte(job)), nil
}

func (v *vault) open(job string, sealed []byte) ([]byte, error) {
	n := v.aead.NonceSize()
	if len(sealed) < n {
		return nil, errSealed
	}
	plain, err := v.aead.Open(nil, sealed[:n], sealed[n:], []byte(job))
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// payload gives the payload of a job. An error wrapping state.ErrNotFound says that
// the job is over.
func (s *Server) payload(ctx context.Context, job string) ([]byte, error) {
	sealed, err := s.state.Payload(ctx, job)
	if err != nil {
		return nil, err
	}
	return s.vault.open(job, sealed)
}
