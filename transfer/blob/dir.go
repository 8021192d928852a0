package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// DirOptions are the knobs of a Dir. The zero value works.
type DirOptions struct {
	// MinFree is how many bytes Put leaves free on the file system, for others that
	// share it and can't do without.
	MinFree int64
}

// Dir is a Store in a directory:
//
//	lock        held shared while open, exclusive while tmp/ is cleaned
//	tmp/        blobs being written
//	00/ .. ff/  whole, verified, immutable blobs under their digests
//	bad/        blobs that Check found damaged, for people to look at
//
// Several processes may have one directory open.
type Dir struct {
	dir     string
	minFree int64
	lock    *flock.Flock
	shards  [256]shard

	naming sync.Mutex // held across the sync of dir
	named  bool       // the names of the shards are durable; guarded by naming
}

// shard is one of the directories 00 to ff.
type shard struct {
	// mu serialises what makes names durable: rename, and the sync of the directory.
	// It is held across that I/O, which is what it is there for; reads never take it.
	mu sync.Mutex
	// synced says that each name that this process may have seen here has been
	// synced. A process that was killed between rename and sync leaves a name that
	// looks whole and may yet be lost, so nobody is told of it before that.
	synced bool
}

// LockName is the file by which a directory is known that OpenDir made.
const LockName = "lock"

// OpenDir opens, and if need be makes, the store in dir. Unless somebody else has
// it open, it deletes what a crash left in tmp/.
func OpenDir(dir string, o DirOptions) (*Dir, error) {
	s := &Dir{dir: dir, minFree: o.MinFree, lock: flock.New(filepath.Join(dir, LockName))}
	if err := s.open(); err != nil {
		s.lock.Close() //nolint:errcheck // the first error is the one to tell
		return nil, fmt.Errorf("blob store %s: %w", dir, err)
	}
	return s, nil
}

func (s *Dir) open() error {
	if err := durable.MkdirAll(s.tmp(), 0o700); err != nil {
		return err
	}
	alone, err := s.lock.TryLock()
	if err != nil {
		return err
	}
	if alone {
		if err := emptyDir(s.tmp()); err != nil {
			return err
		}
		if err := s.lock.Unlock(); err != nil {
			return err
		}
	}
	if err := s.lock.RLock(); err != nil {
		return err
	}
	return s.makeShards()
}

// makeShards makes them all at once, so that a Put never has to sync more than one
// directory. Whoever only reads does not wait for the disk: Put and Stat do.
func (s *Dir) makeShards() error {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(names))
	for _, n := range names {
		there[n.Name()] = n.IsDir()
	}
	for i := range s.shards {
		dir := s.shardDir(byte(i))
		if there[filepath.Base(dir)] {
			continue
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// settleShards makes the names of the shards durable, which an earlier process may have
// left undone. The caller is about to say that one of them has something.
func (s *Dir) settleShards() error {
	s.naming.Lock()
	defer s.naming.Unlock()
	if s.named {
		return nil
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return err
	}
	s.named = true
	return nil
}

func emptyDir(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := os.Remove(filepath.Join(dir, n.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Close lets others clean up. The Dir must not be used afterwards.
func (s *Dir) Close() error { return s.lock.Close() }

func (s *Dir) tmp() string            { return filepath.Join(s.dir, "tmp") }
func (s *Dir) shardDir(b byte) string { return filepath.Join(s.dir, fmt.Sprintf("%02x", b)) }
func (s *Dir) path(d snapshot.Digest) string {
	return filepath.Join(s.shardDir(d[0]), d.String())
}

// Put implements Store. Bytes go to a temporary file on the same file system and
// are hashed on the way.
//
// Crash states, in order:
//  1. before the rename: a file in tmp/; OpenDir deletes it.
//  2. renamed, directory not synced: the blob is whole, but a power cut may take
//     its name. Nobody was told; Stat and Put sync before they tell.
//  3. directory synced, and the one above: durable, and only now Put returns.
//
// A file that is there with another size than announced is not believed: the bytes
// decide, and if they are d's, they replace it.
func (s *Dir) Put(ctx context.Context, d snapshot.Digest, size int64, open func() (io.ReadCloser, error)) error {
	if there, err := holds(ctx, s, d, size); there || err != nil {
		return err
	}
	f, err := s.receive(ctx, d, size, open)
	if err != nil {
		return mapFull(err)
	}
	defer f.Abort()
	return mapFull(s.commit(f, d, size))
}

// receive writes what open gives to a temporary file and syncs it.
func (s *Dir) receive(ctx context.Context, d snapshot.Digest, size int64,
	open func() (io.ReadCloser, error),
) (_ *durable.File, err error) {
	if err := s.checkFree(size); err != nil {
		return nil, err
	}
	body, err := open()
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	defer body.Close() //nolint:errcheck // only read from
	f, err := durable.Create(s.tmp())
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	defer func() {
		if err != nil {
			f.Abort()
		}
	}()
	if err := copyVerified(ctx, f, body, d, size); err != nil {
		return nil, err
	}
	// Here, so that nobody else's commit waits for this one's data. An error is
	// final: the file is dropped and never synced again.
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	fail.Point("blob.received")
	return f, nil
}

// commit gives f its name. If somebody else was faster, f is dropped.
func (s *Dir) commit(f *durable.File, d snapshot.Digest, size int64) error {
	name, sh := s.path(d), &s.shards[d[0]]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if fi, err := os.Lstat(name); err == nil && fi.Mode().IsRegular() && fi.Size() == size && sh.synced {
		return nil
	}
	err := s.settleShards()
	if err == nil {
		err = f.Commit(name)
	}
	if err != nil {
		// The name may be there without being durable, and a second sync could say
		// yes to what is lost.
		os.Remove(name) //nolint:errcheck // the first error is the one to tell
		sh.synced = false
		return fmt.Errorf("blob %s: %w", d, err)
	}
	sh.synced = true
	fail.Point("blob.committed")
	return nil
}

// Stat implements Store.
func (s *Dir) Stat(_ context.Context, d snapshot.Digest) (int64, error) {
	fi, err := os.Lstat(s.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, notFound(d)
	}
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", d, err)
	}
	if !fi.Mode().IsRegular() {
		return 0, corrupt(d, "not a regular file")
	}
	return fi.Size(), s.settle(d)
}

// settle makes the name that was seen durable, if it may not be yet.
func (s *Dir) settle(d snapshot.Digest) error {
	sh := &s.shards[d[0]]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.synced {
		return nil
	}
	err := s.settleShards()
	if err == nil {
		err = durable.SyncDir(s.shardDir(d[0]))
	}
	if err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	sh.synced = true
	return nil
}
