package transfer

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// refVersion is the one kind of ref there is.
const refVersion = 1

// Ref says by which blobs a snapshot can be had: what a push leaves for a pull
// (blob/PROTOCOL.md).
type Ref struct {
	Version     int             `json:"version"`
	Snapshot    snapshot.ID     `json:"snapshot"`
	Base        snapshot.ID     `json:"base"` // whose tree the index is against
	Parents     []snapshot.ID   `json:"parents"`
	Index       snapshot.Digest `json:"index"`
	IndexBytes  int64           `json:"index_bytes"`
	Manifest    snapshot.Digest `json:"manifest"`
	Entries     int64           `json:"entries"` // these four are for people
	Bytes       int64           `json:"bytes"`
	StoredBytes int64           `json:"stored_bytes"`
	MadeMS      int64           `json:"made_ms"`
	MAC         snapshot.Digest `json:"mac"`
}

// mac is the keyed digest of all other members. Who keeps a ref can't change it,
// or make up one, without the domain's key.
func (r Ref) mac(key []byte) (snapshot.Digest, error) {
	r.MAC = snapshot.Digest{}
	b, err := json.Marshal(r)
	if err != nil {
		return r.MAC, err
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte("roost ref\x00"))
	h.Write(b)
	h.Sum(r.MAC[:0])
	return r.MAC, nil
}

// Encode returns the ref as it is kept.
func (r Ref) Encode(key []byte) ([]byte, error) {
	r.Version = refVersion
	if r.Parents == nil {
		r.Parents = []snapshot.ID{}
	}
	var err error
	if r.MAC, err = r.mac(key); err != nil {
		return nil, fmt.Errorf("ref %s: %w", r.Snapshot, err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("ref %s: %w", r.Snapshot, err)
	}
	return append(b, '\n'), nil
}

// ParseRef reads the ref of id and checks that somebody with the key wrote it.
func ParseRef(id snapshot.ID, b, key []byte) (Ref, error) {
	bad := func(why string) (Ref, error) {
		return Ref{}, &snapshot.CorruptError{What: "ref", Name: string(id), Why: why}
	}
	var r Ref
	if err := json.Unmarshal(b, &r); err != nil {
		return bad("it is no JSON as a ref is")
	}
	if r.Version > refVersion {
		return Ref{}, fmt.Errorf("ref %s has version %d: %w", id, r.Version, snapshot.ErrNewerFormat)
	}
	want, err := r.mac(key)
	if err != nil {
		return bad(err.Error())
	}
	if !hmac.Equal(want[:], r.MAC[:]) {
		return bad("it was not written with this key: is it the key of the store that pushed it?")
	}
	for _, i := range append([]snapshot.ID{r.Snapshot}, r.Parents...) {
		if _, err := snapshot.ParseID(string(i)); err != nil {
			return bad(err.Error())
		}
	}
	if r.Base != "" {
		if _, err := snapshot.ParseID(string(r.Base)); err != nil {
			return bad(err.Error())
		}
	}
	if r.Snapshot != id {
		return bad("it is about " + string(r.Snapshot))
	}
	if again, err := r.Encode(key); err != nil || !bytes.Equal(bytes.TrimSpace(again), bytes.TrimSpace(b)) {
		return bad("it says more than a ref does")
	}
	return r, nil
}
