// Package treecheck compares two directory trees with code of its own. It shares
// nothing with snapshot/tree or with any driver, so that a mistake made there is
// not made here once more: tests ask it whether what came out of a store is what
// went in.
//
// Two trees are the same when they have the same names (as bytes), types, modes,
// times to the nanosecond (of directories and symlinks too), sizes, contents
// (whether stored as zeros or as holes), targets, extended attributes, and the
// same files hard-linked to each other, and, for root, the same owners. Nothing is
// said of access and change times, inode numbers and blocks.
package treecheck

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// Options loosen the comparison.
type Options struct {
	// Seconds reads times without their nanoseconds, for formats that have none.
	Seconds bool
	// IgnoreOwners leaves out uids and gids. They are left out without root anyway,
	// who alone can set them.
	IgnoreOwners bool
	// Ignore leaves out a path, relative and slash-separated, and what is below it.
	Ignore func(path string) bool
}

// Compare lists what differs between the trees at a and b, one line for each
// difference, sorted by path; none means that they are the same.
func Compare(a, b string) ([]string, error) {
	return Options{}.Compare(a, b)
}

// Compare is Compare, with options.
func (o Options) Compare(a, b string) ([]string, error) {
	x, err := o.Read(a)
	if err != nil {
		return nil, err
	}
	y, err := o.Read(b)
	if err != nil {
		return nil, err
	}
	return o.Differences(x, y), nil
}

// Tree is what was seen of one tree. It can be compared with any number of others.
type Tree struct {
	root  string
	nodes map[string]*node
}

// Read looks at all of the tree at root.
func (o Options) Read(root string) (*Tree, error) {
	if os.Geteuid() != 0 {
		o.IgnoreOwners = true
	}
	nodes, err := o.read(root)
	if err != nil {
		return nil, err
	}
	return &Tree{root: root, nodes: nodes}, nil
}

// Differences lists what differs between two trees that were read with the same
// options, as Compare does.
func (o Options) Differences(a, b *Tree) []string {
	paths := make([]string, 0, len(a.nodes))
	for p := range a.nodes {
		paths = append(paths, p)
	}
	for p := range b.nodes {
		if _, ok := a.nodes[p]; !ok {
			paths = append(paths, p)
		}
	}
	sort.Strings(paths)
	var out []string
	for _, p := range paths {
		l, r := a.nodes[p], b.nodes[p]
		switch {
		case l == nil:
			out = append(out, fmt.Sprintf("%q: only in %s", p, b.root))
		case r == nil:
			out = append(out, fmt.Sprintf("%q: only in %s", p, a.root))
		default:
			for _, d := range l.differences(r) {
				out = append(out, fmt.Sprintf("%q: %s", p, d))
			}
		}
	}
	return out
}

// node is all that is compared of one path.
type node struct {
	kind     string
	mode     uint32
	uid, gid uint32
	sec      int64
	nsec     int64
	size     int64
	sum      string
	target   string
	xattrs   map[string][]byte
	linked   string // the first name of the same file in this tree, "" for a single one
	dev      uint64 // of the device that the node is
}

// differences lists what n and o do not have in common.
func (n *node) differences(o *node) []string {
	if n.kind != o.kind {
		return []string{fmt.Sprintf("%s, %s", n.kind, o.kind)}
	}
	var out []string
	say := func(same bool, what string, a, b any) {
		if !same {
			out = append(out, fmt.Sprintf("%s %v, %v", what, a, b))
		}
	}
	say(n.mode == o.mode, "mode", fmt.Sprintf("%#o", n.mode), fmt.Sprintf("%#o", o.mode))
	say(n.uid == o.uid, "uid", n.uid, o.uid)
	say(n.gid == o.gid, "gid", n.gid, o.gid)
	say(n.sec == o.sec && n.nsec == o.nsec, "mtime",
		fmt.Sprintf("%d.%09d", n.sec, n.nsec), fmt.Sprintf("%d.%09d", o.sec, o.nsec))
	say(n.size == o.size, "size", n.size, o.size)
	say(n.sum == o.sum, "content", n.sum, o.sum)
	say(n.target == o.target, "target", fmt.Sprintf("%q", n.target), fmt.Sprintf("%q", o.target))
	say(n.linked == o.linked, "linked to", fmt.Sprintf("%q", n.linked), fmt.Sprintf("%q", o.linked))
	say(n.dev == o.dev, "device", n.dev, o.dev)
	for _, k := range keys(n.xattrs, o.xattrs) {
		v, ok1 := n.xattrs[k]
		w, ok2 := o.xattrs[k]
		say(ok1 == ok2 && bytes.Equal(v, w), "attribute "+k, show(v, ok1), show(w, ok2))
	}
	return out
}

func show(v []byte, ok bool) string {
	if !ok {
		return "absent"
	}
	return fmt.Sprintf("%.64q", v)
}

func keys(a, b map[string][]byte) []string {
	var out []string
	for k := range a {
		out = append(out, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			out = append(out, k)
		}
	}
	sort.Strings(out)
	return out
}

// read walks one tree.
func (o Options) read(root string) (map[string]*node, error) {
	nodes := map[string]*node{}
	groups := map[[2]uint64][]string{}
	buf := make([]byte, 256*blockBytes)
	err := filepath.WalkDir(root, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, full)
		if err != nil {
			return err
		}
		if rel = filepath.ToSlash(rel); o.Ignore != nil && o.Ignore(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		n := &node{}
		inode, links, err := n.stat(full)
		if err != nil {
			return err
		}
		if o.IgnoreOwners {
			n.uid, n.gid = 0, 0
		}
		if o.Seconds {
			n.nsec = 0
		}
		if n.kind == "file" {
			if n.sum, err = sum(full, buf); err != nil {
				return err
			}
			if links > 1 {
				groups[inode] = append(groups[inode], rel)
			}
		}
		nodes[rel] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", root, err)
	}
	for _, names := range groups {
		sort.Strings(names)
		for _, p := range names {
			if len(names) > 1 {
				nodes[p].linked = names[0]
			}
		}
	}
	return nodes, nil
}

// blockBytes is the unit in which contents are compared: blocks of zeros are
// passed over, so a hole and written zeros are the same, and a sparse file of a
// terabyte costs what its data costs.
const blockBytes = 4096

var zeros = make([]byte, blockBytes)

// sum is a digest of the blocks of a file that are not all zeros, and where they
// stand. buf is of whole blocks.
func sum(path string, buf []byte) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read from
	h := sha256.New()
	for off := int64(0); ; {
		if off, err = nextData(f, off); err != nil {
			break
		}
		off -= off % blockBytes
		var n int
		n, err = f.ReadAt(buf, off)
		for i := 0; i < n; i += blockBytes {
			b := buf[i:min(i+blockBytes, n)]
			if !bytes.Equal(b, zeros[:len(b)]) {
				var at [8]byte
				binary.LittleEndian.PutUint64(at[:], uint64(off)+uint64(i))
				h.Write(at[:])
				h.Write(b)
			}
		}
		if off += int64(n); err != nil {
			break
		}
	}
	if !errors.Is(err, io.EOF) {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
