package promises

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/roost-ci/roost/snapshot"
)

// attack is a layer in the making, and what the network gives for its packs.
type attack struct {
	rawIndex
	r      *rand.Rand
	base   *snapshot.Manifest
	victim string // a directory outside of the store that nobody may touch
	serve  func(d snapshot.Digest, b []byte) []byte
	lie    bool // about the manifest
}

func (a *attack) change() *snapshot.Change { return &a.ix.Changes[a.r.IntN(len(a.ix.Changes))] }

// file returns a change that puts a file with content.
func (a *attack) file() *snapshot.Change {
	for {
		if c := a.change(); !c.Delete && c.Entry.Type == snapshot.TypeFile && len(c.Entry.Chunks) > 0 {
			return c
		}
	}
}

// put adds an entry where it belongs.
func (a *attack) put(e snapshot.Entry) {
	i := slices.IndexFunc(a.ix.Changes, func(c snapshot.Change) bool { return snapshot.ComparePaths(c.Entry.Path, e.Path) >= 0 })
	if i < 0 {
		i = len(a.ix.Changes)
	}
	a.ix.Changes = slices.Insert(a.ix.Changes, i, snapshot.Change{Entry: e})
}

func (a *attack) content(p string) snapshot.Entry {
	e := a.file().Entry
	e.Path, e.Link, e.Source = p, "", ""
	return e
}

func oneOf[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// attacks are ways to do harm. Each gets a valid layer and makes one that is not,
// or that is but should not get anywhere.
var attacks = map[string]func(a *attack){
	"path": func(a *attack) {
		a.change().Entry.Path = oneOf(a.r, "../evil", "p0/../../evil", a.victim+"/evil", "./x", "p0//x", "x/", "/", "..", ".", "p0/..",
			"x\x00y", strings.Repeat("n", 256), strings.Repeat("d/", 2100)+"x", "../../../../../../etc/cron.d/evil")
	},
	"path in its place": func(a *attack) {
		a.put(a.content(oneOf(a.r, "../evil", "p0/../../../evil", a.victim+"/evil", "./evil", "p0/./evil", "p0//evil")))
	},
	"through a symlink": func(a *attack) {
		l := oneOf(a.r, "aaa", "p0/zzz", "zzz")
		a.put(snapshot.Entry{Path: l, Type: snapshot.TypeSymlink, Mode: 0o777, Target: oneOf(a.r, a.victim, "../../..", "/", "p0")})
		a.put(a.content(l + "/evil"))
	},
	"a directory becomes a symlink": func(a *attack) {
		a.put(snapshot.Entry{Path: "base", Type: snapshot.TypeSymlink, Mode: 0o777, Target: a.victim})
		if a.r.IntN(2) == 0 {
			a.put(a.content("base/evil"))
		}
	},
	"through a symlink of the base": func(a *attack) { a.put(a.content("base/out/evil")) },
	"below a file":                  func(a *attack) { a.put(a.content(a.file().Entry.Path + "/x")) },
	"below nothing":                 func(a *attack) { a.put(a.content("no/such/directory")) },
	"twice": func(a *attack) {
		i := a.r.IntN(len(a.ix.Changes))
		a.ix.Changes = slices.Insert(a.ix.Changes, i, a.ix.Changes[i])
	},
	"order": func(a *attack) {
		i := 1 + a.r.IntN(len(a.ix.Changes)-1)
		a.ix.Changes[i-1], a.ix.Changes[i] = a.ix.Changes[i], a.ix.Changes[i-1]
	},
	"hard link": func(a *attack) {
		e := &a.file().Entry
		e.Link = oneOf(a.r, "no/where", "../evil", a.victim+"/canary", "p0", "base", "base/out", "base/kept", e.Path, "\x00", "a", "..")
	},
	"hard links": func(a *attack) { // of files that could all be one, in groups that some are not in
		alike := a.content("l0")
		if a.r.IntN(2) == 0 {
			none, _ := a.base.Find("base/none")
			alike = *none
			alike.Source, alike.Link = "", ""
		}
		names := []string{"base/a", "l0", "l1", "l2", "z", "base/none", "base/none2", "no/where", ""}
		for _, p := range names[:2+a.r.IntN(4)] {
			alike.Path, alike.Link = p, names[a.r.IntN(len(names))]
			if alike.Link > p { // refused for that alone
				alike.Link = ""
			}
			a.put(alike)
		}
	},
	"hard link of another size": func(a *attack) {
		e := a.content("l1")
		e.Link = "l1"
		f := a.content("l2")
		f.Link, f.Size = "l1", e.Size+1
		a.put(e)
		a.put(f)
	},
	"hard link that is a directory": func(a *attack) {
		a.put(snapshot.Entry{Path: "l1", Type: snapshot.TypeDir, Mode: 0o755, Link: "l1"})
		a.put(snapshot.Entry{Path: "l2", Type: snapshot.TypeDir, Mode: 0o755, Link: "l1"})
	},
	"size": func(a *attack) {
		a.file().Entry.Size = oneOf[int64](a.r, -1, 0, 1, math.MaxInt64, math.MinInt64, 1<<62, 1<<44, 1<<33)
	},
	"sizes add up": func(a *attack) {
		for _, p := range []string{"s1", "s2", "s3"} {
			e := a.content(p)
			e.Size = math.MaxInt64 / 2
			a.put(e)
		}
	},
	"chunks overlap": func(a *attack) {
		e := &a.file().Entry
		c := e.Chunks[0]
		c.Off += int64(a.r.IntN(3)) - 1
		e.Chunks = append(slices.Clone(e.Chunks), c)
	},
	"chunk elsewhere": func(a *attack) {
		e := &a.file().Entry
		e.Chunks = slices.Clone(e.Chunks)
		e.Chunks[0].Off = oneOf[int64](a.r, -1, e.Size, 1<<40, math.MaxInt64-1)
	},
	"chunk of another": func(a *attack) {
		i, j := a.r.IntN(len(a.ix.Chunks)), a.r.IntN(len(a.ix.Chunks))
		a.ix.Chunks[i].Frame, a.ix.Chunks[i].Off = a.ix.Chunks[j].Frame, a.ix.Chunks[j].Off
	},
	"chunk table": func(a *attack) {
		c := &a.ix.Chunks[a.r.IntN(len(a.ix.Chunks))]
		*oneOf(a.r, &c.Off, &c.Len) = oneOf[uint32](a.r, 0, 1, 1<<22, math.MaxUint32, math.MaxUint32-7)
	},
	"chunk frame": func(a *attack) {
		a.ix.Chunks[a.r.IntN(len(a.ix.Chunks))].Frame = oneOf(a.r, -1, len(a.ix.Frames), math.MaxInt32, math.MinInt32)
	},
	"chunk id": func(a *attack) {
		c := &a.ix.Chunks[a.r.IntN(len(a.ix.Chunks))]
		old := c.ID
		c.ID[a.r.IntN(32)] ^= 1 << a.r.IntN(8)
		for i := range a.ix.Changes {
			for j := range a.ix.Changes[i].Entry.Chunks {
				if a.ix.Changes[i].Entry.Chunks[j].ID == old {
					a.ix.Changes[i].Entry.Chunks = slices.Clone(a.ix.Changes[i].Entry.Chunks)
					a.ix.Changes[i].Entry.Chunks[j].ID = c.ID
				}
			}
		}
	},
	"frame": func(a *attack) {
		f := &a.ix.Frames[a.r.IntN(len(a.ix.Frames))]
		switch a.r.IntN(5) {
		case 0:
			f.Off = oneOf[int64](a.r, -1, 0, 7, 1<<29, math.MaxInt64)
		case 1:
			f.Stored = oneOf[uint32](a.r, 0, 1, f.Stored+1, 1<<23, math.MaxUint32)
		case 2:
			f.Plain = oneOf[uint32](a.r, 0, 1, f.Plain-1, f.Plain+1, 4<<20, 4<<20+1, math.MaxUint32)
		case 3:
			f.Codec = oneOf[byte](a.r, 0, 1, 2, 255)
		case 4:
			f.Pack = oneOf(a.r, -1, len(a.ix.Packs), 1<<30)
		}
	},
	"frames overlap": func(a *attack) {
		i := a.r.IntN(len(a.ix.Frames))
		a.ix.Frames = slices.Insert(a.ix.Frames, i, a.ix.Frames[i])
	},
	"pack": func(a *attack) {
		p := &a.ix.Packs[a.r.IntN(len(a.ix.Packs))]
		switch a.r.IntN(4) {
		case 0:
			p.Digest = snapshot.Digest{}
		case 1:
			p.Bytes = oneOf[int64](a.r, 0, -1, 8, 1<<31, math.MaxInt64)
		case 2:
			a.ix.Packs = append(a.ix.Packs, *p)
		case 3:
			a.own = 7
		}
	},
	"mode": func(a *attack) {
		a.change().Entry.Mode = oneOf[uint32](a.r, 0o4755, 0o6777, 0o20644, 0o60644, 0o100644, math.MaxUint32, 0)
	},
	"type": func(a *attack) {
		i := a.r.IntN(len(a.ix.Changes))
		a.ix.Changes[i].Entry.Type = snapshot.Type(a.r.IntN(8))
	},
	"root": func(a *attack) {
		if a.ix.Changes[0].Entry.Path != "" {
			a.put(snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755})
		}
		e := &a.ix.Changes[0]
		switch a.r.IntN(4) {
		case 0:
			e.Entry.Type = snapshot.TypeFile
		case 1:
			e.Entry.Type, e.Entry.Target = snapshot.TypeSymlink, a.victim
		case 2:
			e.Delete = true
		case 3:
			e.Entry.Link = "x"
		}
	},
	"attribute": func(a *attack) {
		name := oneOf(a.r, "trusted.overlay.redirect", "trusted.overlay.opaque", "trusted.overlay.metacopy", "trusted.overlay.whiteout",
			"security.capability", "security.selinux", "user.overlay.redirect", "user.overlay.opaque", "user.", "user", "", "user.\x00x",
			"system.posix_acl_access", "system.posix_acl_default", "system.nfs4_acl", "user."+strings.Repeat("x", 251), "trusted.roost")
		a.change().Entry.Xattrs = []snapshot.Xattr{{Name: name, Value: oneOf(a.r, nil, []byte("y"), []byte(a.victim), make([]byte, 70_000), []byte{2, 0, 0, 0, 9, 9})}}
	},
	"attributes": func(a *attack) {
		e := &a.change().Entry
		for i := range oneOf(a.r, 2, 256, 257, 3000) {
			e.Xattrs = append(e.Xattrs, snapshot.Xattr{Name: oneOf(a.r, "user.same", fmt.Sprintf("user.%05d", i)), Value: []byte("x")})
		}
	},
	"whiteout names": func(a *attack) {
		e := a.content(oneOf(a.r, ".wh.p0", ".wh..wh..opq", "p0/.wh.x", ".wh..wh.aufs", ".wh..wh.plnk"))
		a.put(e)
	},
	"names of ours": func(a *attack) {
		a.put(snapshot.Entry{Path: oneOf(a.r, "views", "trash", "packed", "w", "b", "meta", "empty"), Type: snapshot.TypeDir, Mode: 0o755})
	},
	"delete": func(a *attack) {
		a.ix.Changes = append(a.ix.Changes, snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: oneOf(a.r, "../evil", a.victim, "zz/zz", "base/out/canary", "", "..")}})
	},
	"delete and below": func(a *attack) {
		a.put(snapshot.Entry{Path: "base", Type: snapshot.TypeDir})
		i := slices.IndexFunc(a.ix.Changes, func(c snapshot.Change) bool { return c.Entry.Path == "base" })
		a.ix.Changes[i] = snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: "base"}}
		a.put(a.content("base/evil"))
	},
	"replace": func(a *attack) { a.op = map[int]byte{a.r.IntN(len(a.ix.Changes)): oneOf[byte](a.r, 2, 3, 255)} },
	"kind": func(a *attack) {
		a.kind = map[int]byte{a.r.IntN(len(a.ix.Changes)): byte(a.r.IntN(256))}
	},
	"symlink": func(a *attack) {
		a.put(snapshot.Entry{
			Path: "soft", Type: snapshot.TypeSymlink, Mode: 0o777,
			Target: oneOf(a.r, "", "\x00", "a\x00b", strings.Repeat("x", 4095), strings.Repeat("x", 4096), strings.Repeat("y", 90_000), a.victim),
		})
	},
	"owner": func(a *attack) {
		e := &a.change().Entry
		e.UID, e.GID = oneOf[uint32](a.r, 0, 1, math.MaxUint32, math.MaxUint32-1), oneOf[uint32](a.r, 0, math.MaxUint32)
	},
	"time": func(a *attack) {
		a.change().Entry.MTime = oneOf[int64](a.r, math.MaxInt64, math.MinInt64, math.MinInt64+1e9, -1, 1<<62)
	},
	"counts": func(a *attack) {
		a.counts = map[string]int{oneOf(a.r, "packs", "frames", "chunks", "changes"): oneOf(a.r, 0, 1, 1<<20, 1<<40, math.MaxInt64, -1)}
	},
	"deep": func(a *attack) {
		p := ""
		for range oneOf(a.r, 100, 1000, 2000) {
			p = filepath.Join(p, "d")
			a.put(snapshot.Entry{Path: p, Type: snapshot.TypeDir, Mode: 0o755})
		}
	},
	"bomb in the index": func(a *attack) {
		a.zstd = true
		a.trailing = make([]byte, oneOf(a.r, 1<<20, 16<<20, 64<<20))
		a.plain = oneOf[uint64](a.r, 0, 100, 1<<30, 1<<40, math.MaxUint64)
	},
	"bomb in a frame": func(a *attack) {
		a.serve = func(_ snapshot.Digest, b []byte) []byte {
			e, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
			if err != nil {
				panic(err)
			}
			defer e.Close()
			z := e.EncodeAll(make([]byte, 64<<20), nil)
			out := bytes.Clone(b)
			copy(out[min(8, len(out)):], z)
			return out
		}
	},
	"another pack": func(a *attack) {
		seed := a.r.Uint64()
		a.serve = func(d snapshot.Digest, b []byte) []byte {
			r := rand.New(rand.NewPCG(seed, binary.LittleEndian.Uint64(d[:]))) // several are served at a time
			switch out := bytes.Clone(b); r.IntN(4) {
			case 0:
				return out[:r.IntN(len(out))]
			case 1:
				for i := range out {
					out[i] = byte(r.Uint32())
				}
				return out
			case 2:
				out[8+r.IntN(len(out)-8)] ^= 1
				return out
			default:
				return nil
			}
		}
	},
	"manifest": func(a *attack) { a.lie = true },
	"bytes": func(a *attack) {
		seed := a.r.Uint64()
		a.edit = func(b []byte) []byte { // the same each time: it is encoded twice
			r := rand.New(rand.NewPCG(seed, 1))
			for range 1 + r.IntN(4) {
				b[r.IntN(len(b))] = byte(r.Uint32())
			}
			return b
		}
	},
	"cut": func(a *attack) {
		part := a.r.Float64()
		a.edit = func(b []byte) []byte { return b[:int(part*float64(len(b)))] }
	},
	"more": func(a *attack) { a.trailing = []byte(oneOf(a.r, "\x00", "more", strings.Repeat("\xff", 100))) },
}
