package tree

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

const (
	// maxRefFile bounds a HEAD or a loose ref: a name or an object id.
	maxRefFile = 8 << 10
	// maxPackedRefs bounds packed-refs: about 500,000 refs.
	maxPackedRefs = 64 << 20
	// maxRefDepth is git's own limit of refs that name refs.
	maxRefDepth = 5
)

// head is the commit that HEAD of the repository git names: an object id, or ""
// for a branch without a commit, in tree t. ok is false where that can't be told, as with
// refs kept in a reftable.
func (m *merger) head(t int, git string) (commit string, ok bool) {
	if _, reftable := m.find(t, git+"/reftable"); reftable {
		return "", false
	}
	e, found := m.find(t, git+"/HEAD")
	if !found {
		return "", false
	}
	ref := ""
	switch e.Type {
	case snapshot.TypeSymlink:
		ref = e.Target // as git made it long ago
	case snapshot.TypeFile:
		if commit, ref, ok = m.refFile(e); !ok || commit != "" {
			return commit, ok
		}
	default: // names no commit
	}
	for range maxRefDepth {
		if !strings.HasPrefix(ref, "refs/") {
			return "", false
		}
		e, found := m.find(t, git+"/"+ref)
		if !found {
			return m.packedRef(t, git, ref)
		}
		if e.Type != snapshot.TypeFile {
			return "", false
		}
		if commit, ref, ok = m.refFile(e); !ok || commit != "" {
			return commit, ok
		}
	}
	return "", false
}

// refFile reads a file that holds an object id, or the name of another ref.
func (m *merger) refFile(e *snapshot.Entry) (commit, ref string, ok bool) {
	b, err := m.read(e, maxRefFile)
	if err != nil {
		return "", "", false
	}
	s := strings.TrimSpace(string(b))
	if ref, is := strings.CutPrefix(s, "ref:"); is {
		return "", strings.TrimSpace(ref), true
	}
	return s, "", isObjectID(s)
}

// packedRef looks ref up in packed-refs. A ref that is nowhere has no commit yet.
func (m *merger) packedRef(t int, git, ref string) (commit string, ok bool) {
	e, found := m.find(t, git+"/packed-refs")
	if !found {
		return "", true
	}
	if e.Type != snapshot.TypeFile {
		return "", false
	}
	b, err := m.read(e, maxPackedRefs)
	if err != nil {
		return "", false
	}
	for line := range bytes.Lines(b) {
		id, name, is := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
		if is && name == ref {
			return id, isObjectID(id)
		}
	}
	return "", true
}

// isObjectID reports whether s is a SHA-1 or SHA-256 in hexadecimal.
func isObjectID(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// read returns the content of a small file, from this host or by MergeOptions.
func (m *merger) read(e *snapshot.Entry, limit int64) ([]byte, error) {
	if e.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d", e.Path, e.Size, limit)
	}
	if e.Size == 0 {
		return nil, nil
	}
	err := fmt.Errorf("%s: no content at hand", e.Path)
	if e.Source != "" {
		var b []byte
		if b, err = readSource(e); err == nil {
			return b, nil
		}
	}
	if m.o.Read == nil {
		return nil, err
	}
	b, err := m.o.Read(e)
	if err == nil && int64(len(b)) != e.Size {
		err = fmt.Errorf("%s: read %d bytes of %d", e.Path, len(b), e.Size)
	}
	return b, err
}
