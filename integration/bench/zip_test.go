//go:build bench && linux

package bench

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zip"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// GitLab's helper can't be installed where this runs, so this does what its fast
// way (FF_USE_FASTZIP) does: files are deflated by klauspost's encoder on all
// cores, one writer puts them in order, and all cores unpack.

type zipped struct {
	header zip.FileHeader
	body   []byte
}

// deflaters are costly to make and tables of 1 MB, so they are used again.
var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(io.Discard, flate.DefaultCompression)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

// saveZip archives dir.
func saveZip(t *testing.T, dir, file string) {
	t.Helper()
	f, err := os.Create(file)
	require.NoError(t, err)
	z := zip.NewWriter(f)
	queue := make(chan chan zipped, 4*runtime.GOMAXPROCS(0)) // in order, and bounded
	var g, packers errgroup.Group
	packers.SetLimit(runtime.GOMAXPROCS(0))
	g.Go(func() error {
		defer close(queue)
		return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == dir {
				return err
			}
			slot := make(chan zipped, 1)
			queue <- slot
			packers.Go(func() error {
				one, err := zipOne(dir, path, d)
				slot <- one
				return err
			})
			return nil
		})
	})
	for slot := range queue {
		one := <-slot
		w, err := z.CreateRaw(&one.header)
		require.NoError(t, err)
		_, err = w.Write(one.body)
		require.NoError(t, err)
	}
	require.NoError(t, g.Wait())
	require.NoError(t, packers.Wait())
	require.NoError(t, z.Close())
	require.NoError(t, f.Close())
}

func zipOne(root, path string, d fs.DirEntry) (one zipped, err error) {
	st, err := d.Info()
	if err != nil {
		return one, err
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return one, err
	}
	h := &one.header
	h.Name = filepath.ToSlash(rel)
	h.SetMode(st.Mode())
	h.Extra = binary.LittleEndian.AppendUint32([]byte{0x55, 0x54, 5, 0, 1}, uint32(st.ModTime().Unix()))
	var plain []byte
	switch {
	case st.IsDir():
		h.Name += "/"
		return one, nil
	case st.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return one, err
		}
		plain = []byte(target)
	default:
		if plain, err = os.ReadFile(path); err != nil {
			return one, err
		}
	}
	var b bytes.Buffer
	c := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(c)
	c.Reset(&b)
	if _, err := c.Write(plain); err != nil {
		return one, err
	}
	if err := c.Close(); err != nil {
		return one, err
	}
	h.Method, one.body = zip.Deflate, b.Bytes()
	h.CRC32, h.UncompressedSize64, h.CompressedSize64 = crc32.ChecksumIEEE(plain), uint64(len(plain)), uint64(b.Len())
	return one, nil
}

// restoreZip unpacks into dir, which is there and empty.
func restoreZip(t *testing.T, file, dir string) {
	t.Helper()
	z, err := zip.OpenReader(file)
	require.NoError(t, err)
	defer z.Close()
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, e := range z.File {
		path := filepath.Join(dir, filepath.FromSlash(e.Name))
		if e.FileInfo().IsDir() {
			require.NoError(t, os.Mkdir(path, e.Mode().Perm()))
			continue
		}
		g.Go(func() error { return unzipOne(e, path) })
	}
	require.NoError(t, g.Wait())
	for _, e := range z.File {
		if e.FileInfo().IsDir() {
			at := e.Modified
			require.NoError(t, os.Chtimes(filepath.Join(dir, filepath.FromSlash(e.Name)), at, at))
		}
	}
}

func unzipOne(e *zip.File, path string) error {
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if e.Mode()&fs.ModeSymlink != 0 {
		target, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return os.Symlink(string(target), path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, e.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Chtimes(path, time.Time{}, e.Modified)
}
