package view

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// An image has a key, from which it is known that another one would be the same:
//
//	<64 hex digits>.<id>
//
// The digits are a SHA-256 over all that an image shows: each entry, and where its
// content lies, by the names below views/ that the image leads to. So the key of a
// tree changes when files of it move, and an old image is not found by the new key.
// The id is that of the layer whose inode numbers were kept, "0" for nobody's: the
// same tree with other numbers would make git read all files again. Chunks are left
// out: a tree that was hashed meanwhile has the same image.
//
// An image with copies of its own has no key, for they lie in its layer's directory.

// keyVersion is hashed first. Whoever changes what an image looks like changes it.
const keyVersion = "roost image 1\n"

// keyDigits and keyBytes are the lengths of the digest and of the longest key.
const (
	keyDigits = 2 * sha256.Size
	keyBytes  = keyDigits + 1 + 26
)

// Kinds of places in a key. What stands behind them says all.
const (
	placeNone   = iota
	placeOwn    // an object that lies at the entry's path in the upper of a layer: id
	placeObject // path below views/<id>, with the slash
	placeBundle // tag, offset
)

// keyHash computes the digits of a key.
type keyHash struct {
	h   hash.Hash
	buf []byte
}

func newKeyHash() *keyHash {
	k := &keyHash{h: sha256.New(), buf: make([]byte, 0, 64<<10)}
	k.buf = append(k.buf, keyVersion...)
	return k
}

// entry adds the next entry of the tree; its place is added next.
func (k *keyHash) entry(e *snapshot.Entry) {
	if len(k.buf) > 48<<10 {
		k.h.Write(k.buf)
		k.buf = k.buf[:0]
	}
	b := appendText(k.buf, e.Path)
	b = append(b, byte(e.Type))
	for _, n := range [...]uint64{uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.Size)} {
		b = binary.AppendUvarint(b, n)
	}
	b = binary.AppendVarint(b, e.MTime)
	b = appendText(b, e.Target)
	b = appendText(b, e.Link)
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		b = appendText(b, x.Name)
		b = append(binary.AppendUvarint(b, uint64(len(x.Value))), x.Value...)
	}
	k.buf = b
}

func (k *keyHash) nowhere() { k.buf = append(k.buf, placeNone) }

func (k *keyHash) object(e *snapshot.Entry, id, in string) {
	if in[1:2] == upperPrefix && in[3+len(id):] == e.Path {
		k.buf = appendText(append(k.buf, placeOwn), id)
		return
	}
	k.buf = appendText(append(k.buf, placeObject), in)
}

func (k *keyHash) bundle(tag string, at int64) {
	k.buf = binary.AppendVarint(appendText(append(k.buf, placeBundle), tag), at)
}

func (k *keyHash) digits() string {
	k.h.Write(k.buf)
	k.buf = k.buf[:0]
	return hex.EncodeToString(k.h.Sum(nil))
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// keyFor is the key of an image with these digits that keeps the numbers of the image
// of on, nil for none. own is whose image it is. The same tree has the same numbers
// too, and an image that is made again keeps the line that its numbers come from.
func keyFor(digits string, on *Layer, own snapshot.ID) string {
	if on == nil || on.Image == "" {
		return digits + ".0"
	}
	was, line, ok := strings.Cut(on.Key, ".")
	switch {
	case ok && was == digits:
		return on.Key
	case ok && on.ID == own && on.Image == part(own, imagePrefix):
		return digits + "." + line
	}
	return digits + "." + string(on.ID)
}

// checkKey refuses what is no key: it becomes the name of a file.
func checkKey(key string) error {
	digits, id, ok := strings.Cut(key, ".")
	if _, err := hex.DecodeString(digits); !ok || err != nil || len(digits) != keyDigits {
		return fmt.Errorf("image key %.100q", key)
	}
	if id == "0" {
		return nil
	}
	_, err := snapshot.ParseID(id)
	return err
}
