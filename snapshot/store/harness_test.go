package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

var domainKey = []byte("a key of thirty-two bytes, secret")

// Waits for what happens in the background.
const (
	waitMost = 20 * time.Second
	tick     = 5 * time.Millisecond
)

// bench is one store in a test with the driver that it uses.
type bench struct {
	*Store
	t      testing.TB
	dir    string
	disk   string // where views appear, "": anywhere
	driver string
	o      Options
	stop   func() // Run
	few    int    // Store.fewer of each process
}

// drivers runs fn with each driver that this machine has, in a short run with the
// one that most of the store's code is for.
func drivers(t *testing.T, fn func(t *testing.T, driver string)) {
	t.Helper()
	names := []string{view.NameErofs, view.NameOverlay, view.NameCopy}
	if testing.Short() && runtime.GOOS == "linux" && root() {
		names = names[:1]
	}
	for _, d := range names {
		t.Run(d, func(t *testing.T) {
			if d != view.NameCopy {
				testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
			}
			fn(t, d)
		})
	}
}

func root() bool { return os.Geteuid() == 0 }

func newBench(t testing.TB, driver string) *bench {
	t.Helper()
	return benchAt(t, filepath.Join(t.TempDir(), "store"), driver)
}

func benchAt(t testing.TB, dir, driver string) *bench {
	t.Helper()
	b := &bench{t: t, dir: dir, driver: driver}
	b.o = Options{
		BootID: "boot-1", Owners: root(), ReserveBytes: 1 << 20,
		Driver: func(r string) (view.Driver, error) {
			return view.Open(driver, r, view.Options{Owners: root()})
		},
	}
	b.open()
	t.Cleanup(func() {
		b.close()
		requireNoMounts(t, dir)
	})
	return b
}

func (b *bench) open() {
	b.t.Helper()
	s, err := Open(ctxOf(b.t), b.dir, b.o)
	require.NoError(b.t, err)
	b.Store, s.fewer = s, b.few
}

// run starts Run until close or the returned function.
func (b *bench) run() (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctxOf(b.t)))
	done := make(chan error, 1)
	s := b.Store
	go func() { done <- s.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(b.t, <-done)
	})
	return b.stop
}

// close ends the process's part, as a crash would: what is mounted stays. It
// unmounts at the end of a test by opening once more.
func (b *bench) close() {
	b.t.Helper()
	if b.Store == nil {
		return
	}
	for _, v := range b.Views() {
		if !v.Sealed {
			require.NoError(b.t, b.Discard(context.Background(), v.ID))
		}
	}
	b.crash()
}

func (b *bench) crash() {
	b.t.Helper()
	if b.stop != nil {
		b.stop()
		b.stop = nil
	}
	require.NoError(b.t, b.Close())
	b.Store = nil
}

func (b *bench) reopen() {
	b.t.Helper()
	b.crash()
	b.open()
}

func ctxOf(t testing.TB) context.Context { return t.Context() }

func newID(t testing.TB) snapshot.ID {
	t.Helper()
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(t, err)
	return id
}

// chaff is n bytes that don't compress.
func chaff(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	mathrand.NewChaCha8(key).Read(b) //nolint:errcheck // never fails
	return b
}

// spec makes a PrepareSpec of parents in order; jobs are named a, b, c...
func (b *bench) spec(parents ...snapshot.ID) PrepareSpec {
	id, disk := newID(b.t), b.disk
	if disk == "" {
		disk = b.t.TempDir()
	}
	p := PrepareSpec{ID: id, Target: filepath.Join(disk, "ws-"+string(id)), DomainKey: domainKey, Claim: []byte("claim")}
	for i, id := range parents {
		p.Inputs = append(p.Inputs, Input{Snapshot: id, Job: string(rune('a' + i))})
	}
	return p
}

// job prepares a view, lets fn write in it, and seals it.
func (b *bench) job(fn func(dir string), parents ...snapshot.ID) Info {
	b.t.Helper()
	return b.jobSpec(b.spec(parents...), fn)
}

func (b *bench) jobSpec(p PrepareSpec, fn func(dir string)) Info {
	b.t.Helper()
	a, err := b.Prepare(ctxOf(b.t), p)
	require.NoError(b.t, err)
	if fn != nil {
		fn(a.Target)
	}
	in, err := b.Seal(ctxOf(b.t), p.ID, []byte("green"))
	require.NoError(b.t, err)
	return in
}

// packed runs the background work until the layers are packed.
func (b *bench) packed(ids ...snapshot.ID) []Info {
	b.t.Helper()
	if b.stop == nil {
		b.run()
		defer func() { b.stop(); b.stop = nil }()
	}
	ctx, cancel := context.WithTimeout(ctxOf(b.t), time.Minute)
	defer cancel()
	var out []Info
	for _, id := range ids {
		in, err := b.Packed(ctx, id)
		require.NoError(b.t, err)
		out = append(out, in)
	}
	return out
}

// shown mounts a snapshot, scans and hashes it, and returns its manifest.
func (b *bench) shown(id snapshot.ID) *snapshot.Manifest {
	b.t.Helper()
	target := filepath.Join(b.t.TempDir(), "shown")
	require.NoError(b.t, os.Mkdir(target, 0o755))
	c, err := b.Mount(ctxOf(b.t), id, target)
	require.NoError(b.t, err)
	defer func() { require.NoError(b.t, c.Close()) }()
	return scanHashed(b.t, target)
}

func scanHashed(t testing.TB, dir string) *snapshot.Manifest {
	t.Helper()
	m, err := tree.Scan(ctxOf(t), dir, tree.ScanOptions{Owners: root()})
	require.NoError(t, err)
	hash(t, m)
	return m
}

// hash fills in the chunks of what is not hashed.
func hash(t testing.TB, m *snapshot.Manifest) {
	t.Helper()
	var changes []snapshot.Change
	var at []int
	for i := range m.Entries {
		if e := &m.Entries[i]; !e.Hashed() {
			changes, at = append(changes, snapshot.Change{Entry: *e}), append(at, i)
		}
	}
	dir := t.TempDir()
	_, _, err := pack.Encode(ctxOf(t), pack.EncoderOptions{Dir: dir, Tmp: dir, Key: domainKey}, changes)
	require.NoError(t, err)
	for i := range changes {
		m.Entries[at[i]].Chunks = changes[i].Entry.Chunks
	}
}

// digestOf hashes what of m is not hashed, on a copy.
func digestOf(t testing.TB, m *snapshot.Manifest) snapshot.Digest {
	t.Helper()
	c := &snapshot.Manifest{Entries: append([]snapshot.Entry(nil), m.Entries...)}
	hash(t, c)
	d, err := pack.ManifestDigest(c)
	require.NoError(t, err)
	return d
}

// requireTree checks that what is mounted is what Tree says, and returns its digest.
func (b *bench) requireTree(id snapshot.ID) snapshot.Digest {
	b.t.Helper()
	m, err := b.Tree(ctxOf(b.t), id)
	require.NoError(b.t, err)
	want := b.shown(id)
	if a, c := digestOf(b.t, m), digestOf(b.t, want); a != c {
		for _, d := range tree.Diff(m, want) {
			b.t.Logf("differs: %+v", d)
		}
		b.t.Fatalf("the tree of %s is not what is mounted", id)
	}
	return digestOf(b.t, m)
}

// remote is a blob store in memory.
type remote struct {
	t     testing.TB
	mu    sync.Mutex
	blobs map[snapshot.Digest][]byte
	opens int
}

func newRemote(t testing.TB) *remote { return &remote{t: t, blobs: map[snapshot.Digest][]byte{}} }

// upload copies all blobs of a layer from b.
func (r *remote) upload(b *bench, id snapshot.ID) ImportSpec {
	r.t.Helper()
	in, err := b.Lookup(id)
	require.NoError(r.t, err)
	require.NotEmpty(r.t, in.Blobs)
	require.Equal(r.t, in.Index, in.Blobs[len(in.Blobs)-1].Digest, "the index must come last")
	for _, bl := range in.Blobs {
		f, n, err := b.OpenBlob(ctxOf(r.t), bl.Digest)
		require.NoError(r.t, err)
		data, err := io.ReadAll(f)
		require.NoError(r.t, err)
		require.NoError(r.t, f.Close())
		require.EqualValues(r.t, len(data), n)
		require.Equal(r.t, bl.Bytes, n)
		r.blobs[bl.Digest] = data
	}
	return ImportSpec{
		ID: id, Base: in.WireBase, Parents: in.Parents, Index: in.Index, IndexBytes: in.IndexBytes,
		Manifest: in.Manifest, DomainKey: domainKey,
	}
}

func (r *remote) open(_ context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opens++
	b, ok := r.blobs[d]
	if !ok || off > int64(len(b)) {
		return nil, snapshot.ErrNotFound
	}
	b = b[off:]
	if n >= 0 && n < int64(len(b)) {
		b = b[:n]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func write(t testing.TB, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func requireNoMounts(t testing.TB, dir string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	require.False(t, strings.Contains(string(b), dir), "mounts are left below %s", dir)
}
