//go:build bench && linux

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a file system of its own, in a sparse file behind a loop device: what
// others create, delete and sync on the machine's disk, and what was measured
// before, then moves no figure. The device reads and writes the file directly, so
// what is not in the caches of this file system is on the disk.
type disk struct {
	t     *testing.T
	fs    string
	dir   string
	image string
	loop  string
	gone  bool
}

var disks atomic.Int64

// newDisk makes a file system of at most gib GiB.
func newDisk(t *testing.T, set settings, fs string, gib int) *disk {
	t.Helper()
	n := disks.Add(1)
	d := &disk{t: t, fs: fs, dir: filepath.Join(set.dir, fmt.Sprintf("disk-%d", n))}
	d.image = d.dir + ".img"
	made := map[string]string{
		// Without nodiscard and the lazy options the kernel goes on making it meanwhile.
		"ext4": `mkfs.ext4 -q -i 8192 -E lazy_itable_init=1,nodiscard "$IMAGE"`,
		"xfs":  `mkfs.xfs -q -K "$IMAGE"`,
	}[fs]
	must(t, `mkdir "$DIR"; truncate -s "$SIZE" "$IMAGE"; `+made, d.env("SIZE="+fmt.Sprint(gib)+"G")...)
	d.mount()
	t.Cleanup(func() {
		if !d.gone {
			d.abandon()
		}
	})
	return d
}

func (d *disk) env(more ...string) []string {
	return append([]string{"DIR=" + d.dir, "IMAGE=" + d.image, "LOOP=" + d.loop}, more...)
}

func (d *disk) mount() {
	d.t.Helper()
	options := map[string]string{"ext4": "noinit_itable", "xfs": "nouuid"}[d.fs]
	link := d.image + ".loop"
	must(d.t, `losetup --direct-io=on -f --show "$IMAGE" > "$LINK"; mount -o "$OPTIONS" "$(cat "$LINK")" "$DIR"`,
		d.env("LINK="+link, "OPTIONS="+options)...)
	b, err := os.ReadFile(link)
	if err != nil {
		d.t.Fatal(err)
	}
	d.loop = string(b[:max(0, len(b)-1)])
}

// cold empties the caches of this file system and of nothing else on the machine.
func (d *disk) cold() {
	d.t.Helper()
	d.unmount()
	d.mount()
}

func (d *disk) unmount() {
	d.t.Helper()
	// All views are gone by now: what holds the disk is a mistake of ours.
	must(d.t, `sync -f "$DIR"; umount "$DIR"; losetup -d "$LOOP"`, d.env()...)
}

// remove deletes one large file, not the many in it.
func (d *disk) remove() {
	d.t.Helper()
	d.unmount()
	d.gone = true
	for _, f := range []string{d.image, d.image + ".loop", d.dir} {
		if err := os.Remove(f); err != nil {
			d.t.Error(err)
		}
	}
}

// abandon is remove after a failure: it takes away what is mounted below as well.
func (d *disk) abandon() {
	script := `for i in 1 2 3; do findmnt -rno TARGET | grep "^$DIR" | sort -r | xargs -r umount 2>/dev/null || true; done
		! findmnt -rno TARGET "$DIR" || exit 1; losetup -d "$LOOP" 2>/dev/null || true; rm -f "$IMAGE" "$IMAGE.loop"; rmdir "$DIR"`
	if _, err := sh(context.WithoutCancel(d.t.Context()), script, d.env()); err != nil {
		d.t.Error(err)
	}
}

// sync brings the file system to rest and says how long that took.
func (d *disk) sync() (time.Duration, error) {
	f, err := os.Open(d.dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	start := time.Now()
	err = unix.Syncfs(int(f.Fd()))
	return time.Since(start), err
}
