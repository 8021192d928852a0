package promises

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gardener changes a tree as its seed says. Given the same seed and the same tree
// it does the same again, wherever the tree lies: one is shown by a store, the
// other is a plain directory to compare with.
//
// It leaves one thing alone that overlay mounts can't have (docs/failure-model.md):
// it changes no file that has several names, for there each name would become a
// file of its own.
type gardener struct {
	dir string
	r   *rand.Rand
	odd bool // also what is hard to keep

	paths  []string // below dir, sorted bytewise
	dirs   []string // of these, the directories, and ""
	files  []string // regular ones with one name
	linked map[string]bool
}

// garden makes steps changes to dir, which exists.
func garden(dir string, seed uint64, steps int, odd bool) error {
	g := &gardener{dir: dir, r: rand.New(rand.NewPCG(seed, 11)), odd: odd}
	for range steps {
		if err := g.look(); err != nil {
			return err
		}
		if err := g.step(); err != nil {
			return err
		}
	}
	return g.settle(seed)
}

func (g *gardener) at(p string) string { return filepath.Join(g.dir, p) }

// look lists what is there.
func (g *gardener) look() error {
	g.paths, g.dirs, g.files, g.linked = nil, []string{""}, nil, map[string]bool{}
	groups := map[[2]uint64][]string{}
	err := filepath.WalkDir(g.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == g.dir {
			return err
		}
		rel := p[len(g.dir)+1:]
		g.paths = append(g.paths, rel)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			g.dirs = append(g.dirs, rel)
		case unix.S_IFREG:
			g.files = append(g.files, rel)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			k := [2]uint64{uint64(st.Dev), st.Ino} //nolint:unconvert // differs by architecture
			groups[k] = append(groups[k], rel)
		}
		return nil
	})
	for _, names := range groups {
		for _, n := range names {
			g.linked[n] = g.linked[n] || len(names) > 1
		}
	}
	g.files = slices.DeleteFunc(g.files, func(p string) bool { return g.linked[p] })
	slices.Sort(g.paths)
	slices.Sort(g.dirs)
	slices.Sort(g.files)
	return err
}

func pick(r *rand.Rand, list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[r.IntN(len(list))]
}

// fresh is a name that is not there.
func (g *gardener) fresh() string {
	for {
		d := pick(g.r, g.dirs)
		if strings.Count(d, "/") > 60 {
			d = ""
		}
		p := filepath.Join(d, g.name())
		if _, ok := slices.BinarySearch(g.paths, p); !ok && len(p) < 3000 {
			return p
		}
	}
}

var oddNames = []string{
	"\xff\xfe", "new\nline", " ", "-rf", "...", "a\\b", "%s%n", "\x1b[31m", ".wh.gone", ".wh..wh..opq", "trash", "views",
	"été", "con", "a:b", "'\"`$(x)", ".git", "\x01", "~", strings.Repeat("n", 255), strings.Repeat("\xc3\xa9", 127),
}

func (g *gardener) name() string {
	if g.odd && g.r.IntN(3) == 0 {
		return oddNames[g.r.IntN(len(oddNames))]
	}
	return fmt.Sprintf("n%d", g.r.IntN(200))
}

// step makes one change.
func (g *gardener) step() error {
	kinds := 12
	if g.odd {
		kinds = 18
	}
	switch k := g.r.IntN(kinds); k {
	case 0, 1, 2:
		return g.write(g.fresh())
	case 3:
		return g.overwrite(pick(g.r, g.files))
	case 4:
		return g.remove()
	case 5:
		return os.Mkdir(g.at(g.fresh()), 0o755)
	case 6:
		return os.Symlink([]string{"../nowhere", "/etc/passwd", "n1", strings.Repeat("x", 300)}[g.r.IntN(4)], g.at(g.fresh()))
	case 7:
		if f := pick(g.r, g.files); f != "" {
			return g.link(f)
		}
		return nil
	case 8:
		return g.rename()
	case 9:
		if f := pick(g.r, g.files); f != "" {
			return unix.Chmod(g.at(f), []uint32{0o600, 0o755, 0, 0o444}[g.r.IntN(4)])
		}
		return nil
	case 10:
		return g.sparse(g.fresh())
	case 11:
		return g.replace()
	default:
		return g.oddity(k)
	}
}

func (g *gardener) content() []byte {
	b := make([]byte, []int{0, 1, 100, 100, 4096, 5000, 70_000, 200_000}[g.r.IntN(8)])
	if g.r.IntN(2) == 0 {
		for i := range b {
			b[i] = "0123456789abcdef\n"[i*7%17]
		}
	}
	for i := 0; i+8 <= len(b); i += 8 << g.r.IntN(5) {
		binary.LittleEndian.PutUint64(b[i:], g.r.Uint64())
	}
	return b
}

func (g *gardener) write(p string) error { return os.WriteFile(g.at(p), g.content(), 0o644) }

func (g *gardener) overwrite(p string) error {
	if p == "" {
		return nil
	}
	flag := os.O_WRONLY
	switch g.r.IntN(3) {
	case 0:
		flag |= os.O_TRUNC
	case 1:
		flag |= os.O_APPEND
	}
	f, err := os.OpenFile(g.at(p), flag, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if flag&(os.O_TRUNC|os.O_APPEND) == 0 {
		if _, err := f.Seek(int64(g.r.IntN(3000)), 0); err != nil {
			return err
		}
	}
	// Never nothing: where overlay mounts copied a file's look up before its content,
	// opening it to write alone sets its time.
	_, err = f.Write(append(g.content(), 'x'))
	return err
}

func (g *gardener) remove() error {
	if len(g.paths) < 8 {
		return nil
	}
	p := g.paths[g.r.IntN(len(g.paths))]
	return os.RemoveAll(g.at(p))
}

// rename moves something elsewhere, but not into itself.
func (g *gardener) rename() error {
	if len(g.paths) == 0 {
		return nil
	}
	p, to := pick(g.r, g.paths), g.fresh()
	if g.linked[p] || to == p || strings.HasPrefix(to, p+"/") {
		return nil
	}
	for l, linked := range g.linked {
		if linked && strings.HasPrefix(l, p+"/") {
			return nil
		}
	}
	err := unix.Rename(g.at(p), g.at(to))
	if errors.Is(err, unix.EXDEV) { // overlay mounts move no directory whose path is too long; mv copies
		if out, err := exec.Command("mv", "-T", "--", g.at(p), g.at(to)).CombinedOutput(); err != nil {
			return fmt.Errorf("mv: %w: %s", err, out)
		}
		return nil
	}
	return err
}

// link gives a file another name.
func (g *gardener) link(p string) error {
	to := g.fresh()
	err := os.Link(g.at(p), g.at(to))
	if !errors.Is(err, unix.EXDEV) {
		return err
	}
	// Overlay mounts give none to a file of which they copied only the look, if its
	// path is too long. Opening it to write copies the rest, and sets its time.
	fi, err := os.Stat(g.at(p))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(g.at(p), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), os.Chtimes(g.at(p), fi.ModTime(), fi.ModTime())); err != nil {
		return err
	}
	return os.Link(g.at(p), g.at(to))
}

func (g *gardener) sparse(p string) error {
	f, err := os.Create(g.at(p))
	if err != nil {
		return err
	}
	defer f.Close()
	for range g.r.IntN(3) {
		if _, err := f.WriteAt(g.content(), int64(g.r.IntN(64))*65536); err != nil {
			return err
		}
	}
	return f.Truncate(int64(4<<20 + g.r.IntN(2)*12345))
}

// replace makes a directory a file, or a directory anew.
func (g *gardener) replace() error {
	p := pick(g.r, g.dirs)
	if p == "" {
		return nil
	}
	if err := os.RemoveAll(g.at(p)); err != nil {
		return err
	}
	if g.r.IntN(2) == 0 {
		return g.write(p)
	}
	if err := os.Mkdir(g.at(p), 0o750); err != nil {
		return err
	}
	return g.write(filepath.Join(p, "anew"))
}

// oddity makes what many tools lose.
func (g *gardener) oddity(k int) error {
	switch k {
	case 12:
		return unix.Mkfifo(g.at(g.fresh()), 0o640)
	case 13:
		p := g.at(g.fresh())
		return unix.Mknod(p, unix.S_IFSOCK|0o755, 0)
	case 14:
		if f := pick(g.r, g.files); f != "" {
			if err := unix.Lchown(g.at(f), g.r.IntN(3000), 1<<31+g.r.IntN(5)); err != nil {
				return err
			}
			return unix.Chmod(g.at(f), []uint32{0o4755, 0o2755, 0o1000, 0o7777}[g.r.IntN(4)])
		}
		return nil
	case 15:
		return g.attribute()
	case 16:
		return g.deep()
	default:
		if f := pick(g.r, g.files); f != "" { // before 1970, and in the far future of ext4
			ts := unix.NsecToTimespec([]int64{-1, -1_000_000_001, -86400e9 * 365 * 60, 1}[g.r.IntN(4)])
			return unix.UtimesNanoAt(unix.AT_FDCWD, g.at(f), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		}
		return nil
	}
}

// attribute sets extended attributes and access lists.
func (g *gardener) attribute() error {
	p := pick(g.r, append(slices.Clone(g.files), g.dirs[1:]...))
	if p == "" {
		return nil
	}
	if g.r.IntN(2) == 0 {
		v := make([]byte, []int{0, 5, 200, 1500}[g.r.IntN(4)])
		return unix.Setxattr(g.at(p), fmt.Sprintf("user.k%d", g.r.IntN(3)), v, 0)
	}
	// Version 2: owner rw-, user 1234 r--, group r--, mask rw-, others ---.
	acl := []byte{2, 0, 0, 0}
	for _, e := range [][3]uint32{{1, 6, 1<<32 - 1}, {2, 4, 1234}, {4, 4, 1<<32 - 1}, {16, 6, 1<<32 - 1}, {32, 0, 1<<32 - 1}} {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	err := unix.Setxattr(g.at(p), "system.posix_acl_access", acl, 0)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// deep makes a chain of directories.
func (g *gardener) deep() error {
	p := g.fresh()
	for range 10 + g.r.IntN(40) {
		p = filepath.Join(p, "d")
	}
	if len(g.at(p)) > 3500 {
		return nil
	}
	if err := os.MkdirAll(g.at(p), 0o711); err != nil {
		return err
	}
	return g.write(filepath.Join(p, "bottom"))
}

// settle gives what was just touched a time that depends on the seed alone.
func (g *gardener) settle(seed uint64) error {
	recent := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	then := unix.NsecToTimespec(1_500_000_000_123_456_789 + int64(seed%1_000_000)*1001)
	if err := g.look(); err != nil {
		return err
	}
	for _, p := range append([]string{""}, g.paths...) {
		fi, err := os.Lstat(g.at(p))
		if err != nil {
			return err
		}
		if fi.ModTime().Before(recent) {
			continue
		}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, g.at(p), []unix.Timespec{then, then}, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return fmt.Errorf("settle %q: %w", p, err)
		}
	}
	return nil
}
