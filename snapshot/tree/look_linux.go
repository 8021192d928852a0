package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// direntBytes is what one getdents call may return: about 1,500 short names.
const direntBytes = 48 << 10

var direntBuffers = sync.Pool{New: func() any { return new([direntBytes]byte) }}

// look tells v what is in directory rel. A directory is described by its own
// descriptor, which spares two look-ups of its name.
func (t *treeRoot) look(rel string, o ScanOptions, v looker) {
	fd, err := t.open(rel)
	if err != nil {
		v.failed(rel, err)
		return
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	var it Item
	if err := t.describe(&it, fd, ".", rel, "", o); err != nil {
		v.failed(rel, err)
		return
	}
	v.dir(&it)
	err = eachDirent(fd, func(name string, kind byte) {
		path := name
		if rel != "" {
			path = rel + "/" + name
		}
		if kind == unix.DT_UNKNOWN {
			kind = kindOf(fd, name)
		}
		if kind == unix.DT_DIR {
			if err := fits(path, name); err != nil {
				v.failed(path, err)
				return
			}
			v.sub(path)
			return
		}
		it = Item{}
		if err := t.describe(&it, fd, name, path, "", o); err != nil {
			v.failed(path, err)
			return
		}
		v.entry(&it)
	})
	if err != nil {
		v.failed(rel, &fs.PathError{Op: "read directory", Path: rel, Err: err})
	}
}

// kindOf is for file systems that don't tell with the name. Of what can't be asked,
// describe says why.
func kindOf(dirfd int, name string) byte {
	var st unix.Stat_t
	err := ignoringEINTR(func() error {
		return unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	})
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.DT_DIR
	}
	return unix.DT_UNKNOWN
}

// Parts of the kernel's struct linux_dirent64.
const (
	direntLength = 16 // u16
	direntKind   = 18 // u8
	direntName   = 19 // up to a zero
)

// eachDirent calls fn for each name in a directory, as it lists them.
func eachDirent(fd int, fn func(name string, kind byte)) error {
	pooled := direntBuffers.Get().(*[direntBytes]byte) //nolint:forcetypeassert // nothing else is put there
	defer direntBuffers.Put(pooled)
	for {
		n, err := unix.Getdents(fd, pooled[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		for b := pooled[:n]; len(b) >= direntName; {
			length := int(binary.NativeEndian.Uint16(b[direntLength:]))
			if length < direntName || length > len(b) {
				return unix.EIO
			}
			name, _, _ := bytes.Cut(b[direntName:length], []byte{0})
			if s := string(name); s != "." && s != ".." {
				fn(s, b[direntKind])
			}
			b = b[length:]
		}
	}
}
