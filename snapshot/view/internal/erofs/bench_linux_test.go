package erofs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// BenchmarkMount mounts and unmounts an image; with a thousand devices too.
func BenchmarkMount(b *testing.B) {
	needMount(b)
	for _, c := range []struct{ entries, devices int }{{1000, 1}, {100_000, 1}, {1000, 100}, {1000, 1000}} {
		b.Run(fmt.Sprintf("entries=%d/devices=%d", c.entries, c.devices), func(b *testing.B) {
			dir := b.TempDir()
			var o Options
			var devices []string
			for i := range c.devices {
				o.Devices = append(o.Devices, fmt.Sprint(i, "-tag"))
				devices = append(devices, filepath.Join(dir, fmt.Sprint("device", i)))
				require.NoError(b, os.WriteFile(devices[i], nil, 0o600))
			}
			f, info := create(b, filepath.Join(dir, "image"), o, synthetic(c.entries, 1))
			require.NoError(b, f.Close())
			require.NoError(b, os.WriteFile(devices[0], make([]byte, info.Devices[0].Bytes), 0o600))
			for b.Loop() {
				mnt, err := Detached(FileBacked, f.Name(), devices)
				require.NoError(b, err)
				require.NoError(b, mnt.Close())
			}
		})
	}
}

// BenchmarkBlocks is why blocks have 512 bytes: the bytes that bundles take for
// each byte of content, and what reading all files costs: again, after a mount,
// and after a mount with nothing cached.
// Sizes are drawn so that their mean is 5 KB and half of them are below 2 KB.
func BenchmarkBlocks(b *testing.B) {
	needMount(b)
	for _, block := range []uint8{9, 12} {
		w := newWorld(b, 1)
		w.block = block
		r, content := testRand(1), int64(0)
		const files = 20_000
		for i := range files {
			if i%50 == 0 {
				w.folder(fmt.Sprintf("d%05d", i/50))
			}
			n := int(r.ExpFloat64() * r.ExpFloat64() * 5000)
			content += int64(n)
			w.file(fmt.Sprintf("d%05d/f%05d", i/50, i), bytesOf(r, n))
		}
		image, devices, info := w.image("image", w.options())
		for _, state := range []string{"warm", "mounted", "cold"} {
			b.Run(fmt.Sprintf("block=%d/%s", 1<<block, state), func(b *testing.B) {
				mnt, err := Detached(FileBacked, image, devices)
				require.NoError(b, err)
				defer func() { mnt.Close() }()
				for b.Loop() {
					if state != "warm" { // drops inodes and the file system's own pages
						require.NoError(b, mnt.Close())
						if state == "cold" {
							dropCache(b, append(devices, image)...)
						}
						mnt, err = Detached(FileBacked, image, devices)
						require.NoError(b, err)
					}
					readAll(b, int(mnt.Fd()), w.entries)
				}
				b.ReportMetric(float64(info.Devices[0].Bytes)/float64(content), "bundle/content")
				b.ReportMetric(float64(info.Bytes)/1e6, "MB-image")
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/files, "µs/file")
			})
		}
	}
}

func dropCache(t testing.TB, paths ...string) {
	for _, p := range paths {
		f, err := os.Open(p)
		require.NoError(t, err)
		require.NoError(t, f.Sync())
		require.NoError(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		f.Close()
	}
}

func readAll(t testing.TB, dir int, entries []snapshot.Entry) {
	buf := make([]byte, 1<<20)
	for i := range entries {
		if entries[i].Type != snapshot.TypeFile {
			continue
		}
		fd, err := unix.Openat(dir, entries[i].Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Read(fd, buf); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
}
