package tree

import (
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// marks are directories that a merge treats in its own way because of what lies
// in them, in any of the trees that take part.
type marks struct {
	atomic map[string]bool // by the files of a build's database
	caches map[string]bool // Go build caches
}

// marking finds marks while trees are gone through.
type marking struct {
	marks
	seen map[inTree]int // of what makes a Go build cache
}

func newMarking() *marking {
	return &marking{marks: marks{atomic: map[string]bool{}, caches: map[string]bool{}}, seen: map[inTree]int{}}
}

// inTree is a directory of one of the trees.
type inTree struct {
	tree int
	dir  string
}

// note is told of each path, and what the trees have there.
func (k *marking) note(p string, cur []*snapshot.Entry) {
	if isBuildDatabase(p) {
		k.atomic[parentOf(p)] = true
		return
	}
	typ, weight := cacheSign(p)
	if weight == 0 {
		return
	}
	for i, e := range cur {
		if e == nil || e.Type != typ {
			continue
		}
		in := inTree{i, parentOf(p)}
		if k.seen[in] += weight; k.seen[in] == wholeCache {
			k.caches[in.dir] = true
		}
	}
}

// isBuildDatabase reports whether path is a file in which a build system keeps
// what it knows of the files around it: ninja, CMake, MSBuild, Unity. Such a
// directory is worthless when its files come from several builds. It is asked for
// every entry, so it looks at the last byte first.
func isBuildDatabase(path string) bool {
	if path == "" {
		return false
	}
	switch path[len(path)-1] {
	case 's':
		return isNamed(path, ".ninja_deps")
	case 't':
		return isNamed(path, "CMakeCache.txt")
	case 'B':
		return isNamed(path, "ArtifactDB")
	case 'g':
		return strings.HasSuffix(path, ".tlog")
	}
	return false
}

func isNamed(path, name string) bool {
	return strings.HasSuffix(path, name) && (len(path) == len(name) || path[len(path)-len(name)-1] == '/')
}

// A GOCACHE is recognised by what every version of the go command makes in it before
// anything else: a README, and the directories 00 to ff. Entries in it are named by what
// they are made from, so two parents' caches are one cache.
const (
	cacheDirs  = 256
	cacheText  = cacheDirs + 1 // outweighs them
	wholeCache = cacheDirs + cacheText
)

// cacheSign says of what type path has to be to be a part of that, and its weight: 0 is
// that it is none.
func cacheSign(path string) (snapshot.Type, int) {
	n := len(path)
	switch {
	case n == 2 || n > 2 && path[n-3] == '/':
		if isHex(path[n-2]) && isHex(path[n-1]) {
			return snapshot.TypeDir, 1
		}
	case isNamed(path, "README"):
		return snapshot.TypeFile, cacheText
	}
	return 0, 0
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }
