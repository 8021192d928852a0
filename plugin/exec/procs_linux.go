package exec

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// descendants lists all processes below root, by one look at /proc. What is born
// meanwhile is missed; who wants all of them looks again.
func descendants(root int) []int {
	children := map[int][]int{}
	for _, pid := range pids() {
		if st, ok := readStat(pid); ok {
			children[st.ppid] = append(children[st.ppid], pid)
		}
	}
	var out []int
	for next := []int{root}; len(next) > 0; {
		c := children[next[0]]
		out = append(out, c...)
		next = append(next[1:], c...)
	}
	return out
}

// pids lists all processes.
func pids() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()                //nolint:errcheck // only read from
	names, _ := d.Readdirnames(-1) //nolint:errcheck // what was read so far counts
	out := make([]int, 0, len(names))
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// stat is what we need of /proc/PID/stat.
type stat struct {
	state byte
	ppid  int
	start uint64
}

func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, false
	}
	// The name in parentheses may hold anything; what we need stands behind it.
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return stat{}, false
	}
	ppid, err1 := strconv.Atoi(f[1])
	start, err2 := strconv.ParseUint(f[19], 10, 64)
	return stat{state: f[0][0], ppid: ppid, start: start}, err1 == nil && err2 == nil
}

// alive reports whether pid is still the process that began at start.
func alive(pid int, start uint64) bool {
	st, ok := readStat(pid)
	return ok && st.start == start && st.state != 'Z'
}

// marked lists the processes whose environment says that they are an attempt's.
func marked(mark string) []int {
	want := []byte(markVar + "=" + mark)
	self := os.Getpid()
	var out []int
	for _, pid := range pids() {
		if pid == self {
			continue
		}
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err != nil {
			continue
		}
		for _, e := range bytes.Split(b, []byte{0}) {
			if bytes.Equal(e, want) {
				out = append(out, pid)
				break
			}
		}
	}
	return out
}
