package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// seen is what an independent walk finds at one path.
type seen struct {
	st     unix.Stat_t
	target string
	xattrs map[string]string
	dtype  byte
	dino   uint64
}

// look walks the tree at the open directory by descriptors alone, as paths may be
// longer than a system call takes. visit gets the directory's descriptor and name.
func look(t tester, dir int, path string, all map[string]seen, visit func(dir int, name, path string, s seen)) {
	names := readDir(t, dir)
	for name, d := range names {
		s := lookAt(t, dir, name)
		s.dtype, s.dino = d.dtype, d.ino
		p := name
		if path != "" {
			p = path + "/" + name
		}
		_, twice := all[p]
		require.False(t, twice, "%q is listed twice", p)
		all[p] = s
		if visit != nil {
			visit(dir, name, p, s)
		}
		if s.st.Mode&unix.S_IFMT == unix.S_IFDIR {
			fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			require.NoError(t, err, "open %q", p)
			look(t, fd, p, all, visit)
			unix.Close(fd)
		}
	}
}

type listed struct {
	ino   uint64
	dtype byte
}

// readDir parses getdents64 itself: os.ReadDir hides what it makes of it.
func readDir(t tester, dir int) map[string]listed {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	out := map[string]listed{}
	buf := make([]byte, 8192)
	for {
		n, err := unix.Getdents(fd, buf)
		require.NoError(t, err)
		if n == 0 {
			break
		}
		for b := buf[:n]; len(b) > 0; b = b[le.Uint16(b[16:]):] {
			name, _, _ := bytes.Cut(b[19:le.Uint16(b[16:])], []byte{0})
			_, twice := out[string(name)]
			require.False(t, twice, "%q is listed twice", name)
			out[string(name)] = listed{le.Uint64(b), b[18]}
		}
	}
	require.Contains(t, out, ".")
	require.Contains(t, out, "..")
	delete(out, ".")
	delete(out, "..")
	return out
}

func lookAt(t tester, dir int, name string) (s seen) {
	require.NoError(t, unix.Fstatat(dir, name, &s.st, unix.AT_SYMLINK_NOFOLLOW), "stat %q", name)
	if s.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		buf := make([]byte, 8192)
		n, err := unix.Readlinkat(dir, name, buf)
		require.NoError(t, err, "readlink %q", name)
		s.target = string(buf[:n])
	}
	s.xattrs = xattrsOf(t, "/proc/self/fd/"+strconv.Itoa(dir)+"/"+name)
	return s
}

func xattrsOf(t tester, path string) map[string]string {
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, list)
	require.NoError(t, err, "list attributes of %q", path)
	out := map[string]string{}
	for _, name := range strings.Split(string(list[:n]), "\x00") {
		if name == "" {
			continue
		}
		buf := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, buf)
		require.NoError(t, err, "attribute %q of %q", name, path)
		_, twice := out[name]
		require.False(t, twice)
		out[name] = string(buf[:n])
	}
	return out
}

// expect says how the entry must look. Groups is the number of names by first one.
func (w *world) expect(e *snapshot.Entry, groups, subdirs map[string]int, overlay bool) (mode uint32, nlink uint64, xattrs map[string]string) {
	_, m, _ := kindOf(e.Type)
	nlink = 1
	if e.Link != "" {
		nlink = uint64(groups[e.Link])
	}
	if e.Type == snapshot.TypeDir {
		nlink = uint64(2 + subdirs[e.Path])
	}
	xattrs = map[string]string{}
	for _, x := range e.Xattrs {
		xattrs[x.Name] = string(x.Value)
	}
	if o := w.placeOf(e).Object; o != "" && !overlay {
		xattrs["trusted."+xattrMetacopy] = ""
		xattrs["trusted."+xattrRedirect] = o
	}
	return uint32(m) | e.Mode, nlink, xattrs
}

func (w *world) placeOf(e *snapshot.Entry) Content {
	if e.Link != "" {
		return w.places[e.Link]
	}
	return w.places[e.Path]
}

// compare walks what is mounted at target and holds every entry against the
// manifest. It returns the inode numbers.
func (w *world) compare(target string, overlay bool) map[string]uint64 {
	t := w.t
	dir, err := os.Open(target)
	require.NoError(t, err)
	defer dir.Close()
	return w.compareAt(int(dir.Fd()), overlay)
}

// compareAt is compare from an open directory, such as a detached mount's root.
func (w *world) compareAt(fd int, overlay bool) map[string]uint64 {
	t := w.t
	m := w.manifest()
	groups, subdirs := map[string]int{}, map[string]int{}
	want := map[string]*snapshot.Entry{}
	for i := range m.Entries {
		e := &m.Entries[i]
		want[e.Path] = e
		groups[e.Link]++
		if e.Type == snapshot.TypeDir && e.Path != "" {
			subdirs[e.Path[:max(0, strings.LastIndexByte(e.Path, '/'))]]++
		}
	}
	all := map[string]seen{"": lookAt(t, fd, ".")}
	look(t, fd, "", all, func(dir int, name, path string, s seen) {
		if e := want[path]; e != nil && e.Type == snapshot.TypeFile {
			w.compareContent(dir, name, e, overlay)
		}
	})
	require.Len(t, all, len(want), "entries")
	inos := map[string]uint64{}
	for path, s := range all {
		e := want[path]
		require.NotNil(t, e, "%q is in the mount only", path)
		w.compareEntry(e, s, groups, subdirs, overlay)
		inos[path] = s.st.Ino
		if e.Link != "" {
			require.Equal(t, all[e.Link].st.Ino, s.st.Ino, "%q and %q are one inode", path, e.Link)
		}
	}
	return inos
}

func (w *world) compareEntry(e *snapshot.Entry, s seen, groups, subdirs map[string]int, overlay bool) {
	t := w.t
	if overlay && e.Path == "" {
		return // it looks as the upper does
	}
	mode, nlink, xattrs := w.expect(e, groups, subdirs, overlay)
	require.Equal(t, fmt.Sprintf("%o", mode), fmt.Sprintf("%o", s.st.Mode), "mode of %q", e.Path)
	require.Equal(t, [2]uint32{e.UID, e.GID}, [2]uint32{s.st.Uid, s.st.Gid}, "owner of %q", e.Path)
	sec, nsec := splitTime(e.MTime)
	require.Equal(t, [2]int64{sec, int64(nsec)}, [2]int64{s.st.Mtim.Sec, s.st.Mtim.Nsec}, "mtime of %q", e.Path)
	require.Equal(t, [2]int64{sec, int64(nsec)}, [2]int64{s.st.Ctim.Sec, s.st.Ctim.Nsec}, "ctime of %q", e.Path)
	if !overlay || e.Type != snapshot.TypeDir {
		require.Equal(t, nlink, uint64(s.st.Nlink), "links of %q", e.Path) //nolint:unconvert // differs by architecture
	}
	require.Equal(t, e.Target, s.target, "target of %q", e.Path)
	require.Equal(t, xattrs, s.xattrs, "attributes of %q", e.Path)
	if e.Type == snapshot.TypeFile {
		require.Equal(t, e.Size, s.st.Size, "size of %q", e.Path)
	}
	if e.Path != "" {
		require.Equal(t, byte(mode>>12), s.dtype, "type of %q in its directory", e.Path)
		if !overlay {
			require.Equal(t, s.st.Ino, s.dino, "inode number of %q in its directory", e.Path)
		}
	}
}

// compareContent reads a file whole, or around its data if it is huge.
func (w *world) compareContent(dir int, name string, e *snapshot.Entry, overlay bool) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(w.t, err, "open %q", e.Path)
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	first := e.Path
	if e.Link != "" {
		first = e.Link
	}
	runs := w.data[first]
	if !overlay && w.placeOf(e).Object != "" {
		runs = nil // a hole in the bare image
	}
	if e.Size <= 4<<20 {
		want := make([]byte, e.Size)
		for _, r := range runs {
			copy(want[r.off:], r.data)
		}
		got, err := io.ReadAll(f)
		require.NoError(w.t, err, "read %q", e.Path)
		require.True(w.t, bytes.Equal(want, got), "content of %q", e.Path)
		compareMapped(w.t, f, e)
		return
	}
	for _, r := range append(slices.Clone(runs), run{0, nil}, run{e.Size / 2, nil}, run{e.Size - 1, nil}) {
		got := make([]byte, len(r.data)+1)
		n, err := f.ReadAt(got, r.off)
		require.True(w.t, err == nil || errors.Is(err, io.EOF), "read %q: %v", e.Path, err)
		if r.data != nil {
			require.True(w.t, bytes.Equal(r.data, got[:min(n, len(r.data))]), "content of %q at %d", e.Path, r.off)
		} else if len(runs) == 0 {
			require.Equal(w.t, []byte{0}, got[:n])
		}
	}
}

// compareMapped looks at the last page beyond the file's end, which mmap shows.
func compareMapped(t tester, f *os.File, e *snapshot.Entry) {
	if e.Size == 0 {
		return
	}
	from := (e.Size - 1) &^ 4095
	b, err := unix.Mmap(int(f.Fd()), from, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	require.NoError(t, err)
	defer unix.Munmap(b)
	require.Equal(t, make([]byte, 4096-(e.Size-from)), b[e.Size-from:], "bytes behind the end of %q", e.Path)
}

// lookups asks for n of the names that exist, in random order, and for others
// that do not.
func lookups(t tester, target string, names []string, n int) {
	have := map[string]bool{}
	for _, n := range names {
		have[n] = true
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	var st unix.Stat_t
	for _, n := range names[:n] {
		require.NoError(t, unix.Lstat(target+"/"+n, &st), "%q", n)
		for _, no := range []string{n + "x", n + "\x01", n[:len(n)-1], "\x01" + n, n + "\xff"} {
			if no != "" && no != "." && no != ".." && len(no) <= 255 && !have[no] {
				require.ErrorIs(t, unix.Lstat(target+"/"+no, &st), unix.ENOENT, "%q", no)
			}
		}
	}
}
