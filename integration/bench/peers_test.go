//go:build bench && linux

package bench

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// way is one means of keeping a tree. Its scripts see SRC (the tree), REPO (an
// empty directory on the same file system), N (0 before the change, 1 after it),
// DST (an empty directory) and CORES. Each stands for what its manual gives as the
// fastest for local use; the table shows them.
type way struct {
	name   string
	needs  []string // programs
	fs     string   // where it can work alone, "" for everywhere
	slow   bool     // one session on one file system is enough: it takes more time than the others
	prog   string   // what prints its version
	init   string   // not measured
	save   string   // the tree as it is
	again  string   // a later save, if it differs from save
	whole  bool     // has no increments: saving again is saving all
	copies bool     // keeps plain files: what it writes counts, not what it grows by
	before string   // after the last save, not measured
	back   string   // restores N to DST, which is empty
	ready  string   // before a cold mount, not measured
	mount  string   // shows N at DST instead, read-only
	umount string
	// What it is known to lose; its trees are compared without that.
	seconds bool // nanoseconds
	links   bool // times of symlinks
}

const tarZstd = `tar -C "$SRC" -cf - . | zstd -q -T0 -1 -o "$REPO/$N.tar.zst"`

var ways = []way{
	roostWay,
	{
		name: "tar, zstd -1", needs: []string{"tar", "zstd"}, prog: "zstd --version", whole: true, seconds: true,
		save: tarZstd, back: `zstd -q -T0 -dc "$REPO/$N.tar.zst" | tar -C "$DST" -xpf -`,
	},
	{
		name: "cp -a", needs: []string{"cp"}, prog: "cp --version", whole: true, copies: true,
		save: `cp -a --reflink=never "$SRC" "$REPO/$N"`, back: `cp -a --reflink=never "$REPO/$N/." "$DST/"`,
	},
	{
		name: "cp --reflink", needs: []string{"cp"}, prog: "cp --version", fs: "xfs", whole: true, copies: true,
		save: `cp -a --reflink=always "$SRC" "$REPO/$N"`, back: `cp -a --reflink=always "$REPO/$N/." "$DST/"`,
	},
	{
		name: "rsync -a", needs: []string{"rsync"}, prog: "rsync --version", copies: true,
		save: `rsync -a --whole-file "$SRC/" "$REPO/copy/"`, again: `rsync -a --delete --inplace --no-whole-file "$SRC/" "$REPO/copy/"`,
		back: `rsync -a --whole-file "$REPO/copy/" "$DST/"`,
	},
	{
		name: "restic", needs: []string{"restic"}, prog: "restic version",
		init:   restic + ` init`,
		save:   `cd "$SRC"; ` + restic + ` backup --tag "$N" .`,
		before: restic + ` snapshots --json --latest 1 | grep -o '"id":"[^"]*"' | tail -1 | cut -d'"' -f4 > "$REPO/last"`,
		back:   restic + ` restore "$(cat "$REPO/last")" --target "$DST"`,
	},
	borgWay("borg, lz4", "lz4"), borgWay("borg, zstd -1", "zstd,1"),
	{
		name: "casync", needs: []string{"casync"}, prog: "casync --version", slow: true,
		save: `casync make --compression=zstd --store="$REPO/store.castr" "$REPO/$N.caidx" "$SRC"`,
		back: `casync extract --store="$REPO/store.castr" "$REPO/$N.caidx" "$DST"`,
	},
	{
		name: "zip -1", needs: []string{"zip", "unzip"}, prog: "zip -v", whole: true, slow: true, seconds: true, links: true,
		save: `cd "$SRC"; zip -q -r -1 -y "$REPO/$N.zip" .`, back: `unzip -q -X "$REPO/$N.zip" -d "$DST"`,
	},
	{
		name: "squashfs, zstd -1", needs: []string{"mksquashfs", "unsquashfs"}, prog: "mksquashfs -version", whole: true, seconds: true,
		save:   `mksquashfs "$SRC" "$REPO/$N.sqfs" -comp zstd -Xcompression-level 1 -processors "$CORES" -noappend -no-progress -quiet`,
		back:   `unsquashfs -quiet -no-progress -processors "$CORES" -force -dest "$DST" "$REPO/$N.sqfs"`,
		mount:  `mount -t squashfs -o loop,ro,threads="$CORES" "$REPO/$N.sqfs" "$DST" 2>/dev/null || mount -t squashfs -o loop,ro "$REPO/$N.sqfs" "$DST"`,
		umount: `umount "$DST"`,
	},
}

const (
	restic = `RESTIC_PASSWORD=bench RESTIC_CACHE_DIR="$REPO/cache" restic -q -o local.connections=8 -r "$REPO/repo"`
	borg   = `BORG_BASE_DIR="$REPO/base" BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes borg `
)

// borgWay is borg with a codec: its own default is its fastest, and stores more.
func borgWay(name, codec string) way {
	return way{
		name: name, needs: []string{"borg"}, prog: "borg --version", slow: true,
		init: borg + `init -e none "$REPO/repo"`, save: `cd "$SRC"; ` + borg + `create -C ` + codec + ` "$REPO/repo::$(date +%s%N)" .`,
		before: borg + `list --short --last 1 "$REPO/repo" > "$REPO/last"`,
		back:   `cd "$DST"; ` + borg + `extract "$REPO/repo::$(cat "$REPO/last")"`,
	}
}

// usable are the ways whose programs there are; what is missing is said, with what
// installs it, and costs its rows.
func usable(t *testing.T, set settings) []way {
	t.Helper()
	packages := map[string]string{"borg": "borgbackup", "mksquashfs": "squashfs-tools", "unsquashfs": "squashfs-tools"}
	var out []way
	var missing []string
	for _, w := range ways {
		if len(set.only) > 0 && !slices.ContainsFunc(set.only, func(o string) bool { return strings.HasPrefix(w.name, o) }) && w.name != roostWay.name {
			continue
		}
		there := true
		for _, p := range w.needs {
			if _, err := exec.LookPath(p); err != nil {
				there = false
				if packages[p] != "" {
					p = packages[p]
				}
				if !slices.Contains(missing, p) {
					missing = append(missing, p)
				}
			}
		}
		if there {
			out = append(out, w)
		}
	}
	if len(missing) > 0 {
		logf("NOT COMPARED, for want of programs: apt-get install %s", strings.Join(missing, " "))
	}
	for _, p := range []string{"git", "go", "rsync", "losetup", "mkfs.ext4", "mkfs.xfs", "findmnt"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("the bench itself needs %s: apt-get install git golang rsync mount e2fsprogs xfsprogs util-linux", p)
		}
	}
	return out
}
