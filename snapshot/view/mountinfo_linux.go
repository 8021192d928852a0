package view

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/mountinfo"
)

// mountEntry is one line of /proc/self/mountinfo, unescaped.
type mountEntry struct {
	dev    string // major:minor
	root   string // what of the file system is mounted: "/" unless it is a part
	point  string
	fstype string
	dirs   []string // an overlay's upper, lowers and data directories; an image's file
}

// readMounts lists the mounts of this process's namespace in the order in which
// they were made. It has a parser of its own because a line can be longer than
// the 64 KiB at which bufio.Scanner, and so moby/sys/mountinfo, gives up: an
// overlay with hundreds of layers names each of them.
func readMounts() ([]mountEntry, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMounts(b)
}

func parseMounts(b []byte) ([]mountEntry, error) {
	var out []mountEntry
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		sep := -1
		for i := 6; i < len(f); i++ {
			if f[i] == "-" {
				sep = i
				break
			}
		}
		if sep < 0 || sep+3 > len(f) {
			return nil, fmt.Errorf("list mounts: line %.200q is not understood", line)
		}
		m := mountEntry{dev: f[2], root: mountinfo.Unescape(f[3]), point: mountinfo.Unescape(f[4]), fstype: f[sep+1]}
		if m.fstype == "overlay" && sep+3 < len(f) {
			m.dirs = overlayDirs(f[sep+3])
			if dir, ok := strings.CutPrefix(f[sep+2], mountSource+":"); ok {
				m.dirs = append(m.dirs, mountinfo.Unescape(dir)) // by mountLegacy
			}
		}
		if m.fstype == "erofs" && strings.HasPrefix(f[sep+2], "/") {
			m.dirs = append(m.dirs, mountinfo.Unescape(f[sep+2]))
		}
		out = append(out, m)
	}
	return out, nil
}

// nameBinds adds to each mount of a part of a file system (a bind mount) the names
// that the part has where more of that file system is mounted.
func nameBinds(all []mountEntry) {
	of := map[string][]int{}
	for i := range all {
		of[all[i].dev] = append(of[all[i].dev], i)
	}
	for i := range all {
		m := &all[i]
		for _, j := range of[m.dev] {
			if o := &all[j]; i != j && m.root != o.root && mountinfo.Inside(m.root, o.root) {
				rel := strings.TrimPrefix(m.root, o.root)
				m.dirs = append(m.dirs, filepath.Join(o.point, rel))
			}
		}
	}
}

// overlayDirs picks the directories out of an overlay's options. Commas inside a
// value are escaped by the kernel; a colon separates lowers only in "lowerdir=".
func overlayDirs(opts string) []string {
	var dirs []string
	for o := range strings.SplitSeq(opts, ",") {
		key, val, _ := strings.Cut(o, "=")
		switch key {
		case "upperdir", "workdir", "lowerdir+", "datadir+":
			d := mountinfo.Unescape(val)
			dirs = append(dirs, d)
			if strings.Contains(d, `\`) {
				// From mount(2) the kernel keeps the option as it was written, with
				// a backslash before commas.
				dirs = append(dirs, strings.NewReplacer(`\\`, `\`, `\,`, `,`).Replace(d))
			}
		case "lowerdir":
			for d := range strings.SplitSeq(val, ":") {
				dirs = append(dirs, mountinfo.Unescape(d))
			}
		}
	}
	return dirs
}

// mountsAt lists the mounts at target and below it.
func mountsAt(target string) ([]mountEntry, error) {
	all, err := readMounts()
	if err != nil {
		return nil, err
	}
	var out []mountEntry
	for _, m := range all {
		if mountinfo.Inside(m.point, target) {
			out = append(out, m)
		}
	}
	return out, nil
}
