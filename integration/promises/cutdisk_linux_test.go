package promises

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// A disk that can lose its power: one file, served by FUSE to a loop device, by a
// process of its own (who serves a disk must not wait for it). What was written since
// the last flush is in memory only, like in the cache of a real disk; when the power is
// cut a random part of that is written, each piece as it was after any of its writes,
// and of what comes later nothing.
//
// It does what it is told, a line at a time:
//
//	arm N      stop before the N-th write or flush from now, and say "stopped"
//	stop       do so now
//	cut SEED   lose the power, say how much was lost, and go on as if nothing were
//	off        write all; it ends when it is unmounted
const (
	cutBlock    = 4096
	cutSector   = 512
	cutVersions = 4 // of a block that are remembered
	cutFile     = "disk"
	cutMaxWrite = 1 << 20
)

// tornEnv says that blocks can be torn: XFS does not survive that. It goes by the newer
// of two times in a block of a directory, and the block's sum is wrong then.
const tornEnv = "ROOST_PROMISES_TORN"

type cutDisk struct {
	img  *os.File
	torn bool
	size uint64
	fd   int

	mu      sync.Mutex // guards all below; held while a request is served
	resume  *sync.Cond
	pending map[int64][][]byte // by block, what was written since the flush, the oldest first
	armed   int                // requests until it stops; 0: never
	stopped bool
	lost    bool // the power is gone
}

// cutDiskChild serves dir/img as dir/mnt/disk.
func cutDiskChild(dir string) error {
	img, err := os.OpenFile(filepath.Join(dir, "img"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer img.Close()
	fi, err := img.Stat()
	if err != nil {
		return err
	}
	d := &cutDisk{torn: os.Getenv(tornEnv) != "", img: img, size: uint64(fi.Size()), pending: map[int64][][]byte{}}
	d.resume = sync.NewCond(&d.mu)
	if d.fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("/dev/fuse: %w", err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", d.fd)
	if err := unix.Mount("roost-cut", filepath.Join(dir, "mnt"), "fuse", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	fmt.Println("ready")
	go d.obey()
	return d.serve()
}

func (d *cutDisk) obey() {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var what string
		var n uint64
		fmt.Sscan(in.Text(), &what, &n) //nolint:errcheck // some have no number
		d.mu.Lock()
		switch what {
		case "arm":
			d.armed = int(n)
		case "stop":
			d.stopLocked()
		case "cut":
			all, kept := d.cutLocked(n)
			d.stopped = false
			d.resume.Broadcast()
			fmt.Println("cut", all, kept)
		case "off":
			d.flushLocked()
			fmt.Println("off")
		}
		d.mu.Unlock()
	}
}

func (d *cutDisk) stopLocked() {
	if !d.stopped {
		d.stopped, d.armed = true, 0
		fmt.Println("stopped")
	}
}

// beforeLocked is called before each write and flush.
func (d *cutDisk) beforeLocked() {
	if d.armed > 0 {
		if d.armed--; d.armed == 0 {
			d.stopLocked()
		}
	}
	for d.stopped {
		d.resume.Wait()
	}
}

// flushLocked makes what was written last.
func (d *cutDisk) flushLocked() {
	if d.lost {
		return
	}
	for b, v := range d.pending {
		d.store(b, v[len(v)-1])
	}
	clear(d.pending)
}

func (d *cutDisk) store(block int64, b []byte) {
	if _, err := d.img.WriteAt(b, block*cutBlock); err != nil {
		panic(err)
	}
}

// cutLocked writes a part of what is pending, of each piece any state that it had, and
// returns how many blocks there were, and of how many something was kept.
func (d *cutDisk) cutLocked(seed uint64) (all, kept int) {
	r := rand.New(rand.NewPCG(seed, 5))
	keep := []float64{0, 0.1, 0.5, 0.9, 1}[r.IntN(5)]
	piece := cutBlock
	if d.torn && r.IntN(3) == 0 {
		piece = cutSector
	}
	for b, v := range d.pending {
		was, err := d.blockOf(b, nil)
		if err != nil {
			panic(err)
		}
		some := false
		for at := 0; at < cutBlock; at += piece {
			if r.Float64() >= keep {
				continue
			}
			some = true
			now := v[len(v)-1]
			if r.IntN(4) == 0 {
				now = v[r.IntN(len(v))]
			}
			copy(was[at:at+piece], now[at:])
		}
		if some {
			kept++
			d.store(b, was)
		}
	}
	d.lost = true
	return len(d.pending), kept
}

// blockOf returns a copy of a block, as the last one of versions, or as it is on the disk.
func (d *cutDisk) blockOf(block int64, versions [][]byte) ([]byte, error) {
	b := make([]byte, cutBlock)
	if len(versions) > 0 {
		copy(b, versions[len(versions)-1])
		return b, nil
	}
	_, err := d.img.ReadAt(b, block*cutBlock)
	return b, err
}

func (d *cutDisk) writeLocked(off int64, data []byte) error {
	for len(data) > 0 {
		block, at := off/cutBlock, int(off%cutBlock)
		v := d.pending[block]
		b, err := d.blockOf(block, v)
		if err != nil {
			return err
		}
		n := copy(b[at:], data)
		if len(v) == cutVersions {
			v = v[1:]
		}
		d.pending[block] = append(v[:len(v):len(v)], b)
		off, data = off+int64(n), data[n:]
	}
	return nil
}

func (d *cutDisk) readLocked(off int64, n int) ([]byte, error) {
	n = int(min(int64(n), max(0, int64(d.size)-off)))
	out := make([]byte, 0, n)
	for len(out) < n {
		block, at := off/cutBlock, int(off%cutBlock)
		b, err := d.blockOf(block, d.pending[block])
		if err != nil {
			return nil, err
		}
		part := b[at:min(cutBlock, at+n-len(out))]
		out, off = append(out, part...), off+int64(len(part))
	}
	return out, nil
}

// What is needed of FUSE's protocol (include/uapi/linux/fuse.h) for one file.
const (
	fuseLookup, fuseForget, fuseGetattr, fuseSetattr = 1, 2, 3, 4
	fuseOpen, fuseRead, fuseWrite, fuseStatfs        = 14, 15, 16, 17
	fuseRelease, fuseFsync, fuseFlush, fuseInit      = 18, 20, 25, 26
	fuseOpendir, fuseReleasedir, fuseInterrupt       = 27, 29, 36
	fuseDestroy, fuseBatchForget                     = 38, 42
	fuseIn, fuseOut                                  = 40, 16 // bytes of the headers
	fuseNode                                         = 2      // of the file; the directory is 1
)

var le = binary.LittleEndian

func (d *cutDisk) serve() error {
	buf := make([]byte, cutMaxWrite+1<<16)
	for {
		n, err := unix.Read(d.fd, buf)
		switch {
		case errors.Is(err, unix.ENODEV):
			return nil // unmounted
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return fmt.Errorf("/dev/fuse: %w", err)
		case n < fuseIn:
			return errors.New("a request without a header")
		}
		op, unique, node := le.Uint32(buf[4:]), le.Uint64(buf[8:]), le.Uint64(buf[16:])
		if op == fuseForget || op == fuseBatchForget || op == fuseInterrupt {
			continue // nobody waits
		}
		body, errno := d.answer(op, node, buf[fuseIn:n])
		out := make([]byte, fuseOut, fuseOut+len(body))
		le.PutUint32(out, uint32(fuseOut+len(body)))
		le.PutUint32(out[4:], uint32(-int32(errno)))
		le.PutUint64(out[8:], unique)
		if _, err := unix.Write(d.fd, append(out, body...)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("/dev/fuse: %w", err)
		}
	}
}

func (d *cutDisk) answer(op uint32, node uint64, in []byte) ([]byte, unix.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch op {
	case fuseInit:
		b := make([]byte, 64)
		le.PutUint32(b, 7)
		le.PutUint32(b[4:], 31)
		le.PutUint32(b[8:], 1<<20)            // readahead
		le.PutUint32(b[12:], 1<<5|1<<22)      // large writes, of so many pages:
		le.PutUint32(b[20:], cutMaxWrite)     //
		le.PutUint32(b[24:], 1)               // times to the nanosecond
		le.PutUint16(b[28:], cutMaxWrite>>12) //
		return b, 0
	case fuseLookup:
		if node != 1 || string(in) != cutFile+"\x00" {
			return nil, unix.ENOENT
		}
		b := make([]byte, 40, 128)
		le.PutUint64(b, fuseNode)
		le.PutUint64(b[16:], 3600) // how long name and attributes hold, in seconds
		le.PutUint64(b[24:], 3600)
		return append(b, d.attr(fuseNode)...), 0
	case fuseGetattr, fuseSetattr:
		b := make([]byte, 16, 104)
		le.PutUint64(b, 3600)
		return append(b, d.attr(node)...), 0
	case fuseOpen, fuseOpendir:
		return make([]byte, 16), 0
	case fuseStatfs:
		return make([]byte, 80), 0
	case fuseRelease, fuseReleasedir, fuseFlush, fuseDestroy:
		return nil, 0
	case fuseRead:
		b, err := d.readLocked(int64(le.Uint64(in[8:])), int(le.Uint32(in[16:])))
		if err != nil {
			return nil, unix.EIO
		}
		return b, 0
	case fuseWrite:
		d.beforeLocked()
		n := le.Uint32(in[16:])
		if err := d.writeLocked(int64(le.Uint64(in[8:])), in[40:40+n]); err != nil {
			return nil, unix.EIO
		}
		return le.AppendUint64(nil, uint64(n)), 0
	case fuseFsync:
		d.beforeLocked()
		d.flushLocked()
		return nil, 0
	}
	return nil, unix.ENOSYS
}

func (d *cutDisk) attr(node uint64) []byte {
	b := make([]byte, 88)
	le.PutUint64(b, node)
	mode, size := uint32(unix.S_IFDIR|0o700), uint64(0)
	if node == fuseNode {
		mode, size = unix.S_IFREG|0o600, d.size
	}
	le.PutUint64(b[8:], size)
	le.PutUint64(b[16:], size/512)
	le.PutUint32(b[60:], mode)
	le.PutUint32(b[64:], 1)
	le.PutUint32(b[80:], cutBlock)
	return b
}
