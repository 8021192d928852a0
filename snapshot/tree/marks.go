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

func findMarks(trees []*snapshot.Manifest) marks {
	k := marks{atomic: map[string]bool{}, caches: map[string]bool{}}
	for _, t := range trees {
		es := entries(t)
		for i := range es {
			e := &es[i]
			switch {
			case isBuildDatabase(e.Path):
				k.atomic[parentOf(e.Path)] = true
			case e.Type == snapshot.TypeFile && isNamed(e.Path, "README"):
				if d := parentOf(e.Path); !k.caches[d] && isGoCache(t, d) {
					k.caches[d] = true
				}
			}
		}
	}
	return k
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

// isGoCache recognises a GOCACHE by what every version of the go command makes in
// it before anything else: a README, and the directories 00 to ff. Entries in it
// are named by what they are made from, so two parents' caches are one cache.
func isGoCache(t *snapshot.Manifest, dir string) bool {
	const hex = "0123456789abcdef"
	prefix := dir
	if prefix != "" {
		prefix += "/"
	}
	for i := range 256 {
		e, ok := t.Find(prefix + string([]byte{hex[i>>4], hex[i&15]}))
		if !ok || e.Type != snapshot.TypeDir {
			return false
		}
	}
	return true
}
