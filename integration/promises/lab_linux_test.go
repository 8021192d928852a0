package promises

import (
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// lab is a store in this process.
type lab struct {
	t      testing.TB
	dir    string
	driver string
	s      *store.Store
	far    *far
}

func newLab(t testing.TB, dir, driver string) *lab {
	l := &lab{t: t, dir: dir, driver: driver, far: &far{dir: filepath.Join(dir, "far")}}
	require.NoError(t, os.MkdirAll(l.far.dir, 0o755))
	l.open()
	t.Cleanup(func() {
		require.NoError(t, l.s.Close())
		require.Empty(t, leftovers(t, dir))
	})
	return l
}

func (l *lab) open() {
	s, err := store.Open(l.t.Context(), filepath.Join(l.dir, "store"), options(l.driver))
	require.NoError(l.t, err)
	l.s = s
}

func newID(t testing.TB) snapshot.ID {
	id, err := snapshot.NewID(crand.Reader)
	require.NoError(t, err)
	return id
}

// job seals what fn makes of inputs.
func (l *lab) job(fn func(dir string), inputs ...snapshot.ID) snapshot.ID {
	l.t.Helper()
	p := store.PrepareSpec{ID: newID(l.t), DomainKey: domainKey}
	p.Target = filepath.Join(l.dir, "slots", string(p.ID))
	for i, in := range inputs {
		p.Inputs = append(p.Inputs, store.Input{Snapshot: in, Job: string(rune('a' + i))})
	}
	at, err := l.s.Prepare(l.t.Context(), p)
	require.NoError(l.t, err)
	fn(at.Target)
	in, err := l.s.Seal(l.t.Context(), p.ID, nil)
	require.NoError(l.t, err)
	require.Equal(l.t, store.Sealed, in.State, in.Err)
	require.NoError(l.t, l.s.Reported(l.t.Context(), p.ID))
	return p.ID
}

// packed runs the background work until all of ids are packed.
func (l *lab) packed(ids ...snapshot.ID) (list []store.Info) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.s.Run(ctx) }()
	wait, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	for _, id := range ids {
		in, err := l.s.Packed(wait, id)
		require.NoError(l.t, err)
		list = append(list, in)
	}
	cancel()
	require.NoError(l.t, <-done)
	return list
}

// shown calls fn with the snapshot mounted.
func (l *lab) shown(id snapshot.ID, fn func(dir string)) {
	l.t.Helper()
	at := filepath.Join(l.dir, "seen")
	require.NoError(l.t, os.MkdirAll(at, 0o755))
	c, err := l.s.Mount(l.t.Context(), id, at)
	require.NoError(l.t, err)
	defer func() { require.NoError(l.t, c.Close()) }()
	fn(at)
}

// upload puts a packed layer into the blob store.
func (l *lab) upload(in store.Info) *store.ImportSpec {
	l.t.Helper()
	require.NoError(l.t, l.far.upload(l.t.Context(), l.s, &in))
	return importSpec(&in)
}

func digestOf(b []byte) snapshot.Digest { return sha256.Sum256(b) }
