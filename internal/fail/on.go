//go:build failpoints

package fail

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

var remaining atomic.Int64

var target = func() string {
	name, count, ok := strings.Cut(os.Getenv(Env), ":")
	n := 1
	if ok {
		if v, err := strconv.Atoi(count); err == nil {
			n = v
		}
	}
	remaining.Store(int64(n))
	return name
}()

// Point marks a named step, and kills the process (as kill -9 would) if the
// environment names it.
func Point(name string) {
	if name != target || target == "" || remaining.Add(-1) != 0 {
		return
	}
	if p := os.Getenv(EnvLog); p != "" {
		if f, err := os.OpenFile(p, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			fmt.Fprintln(f, name) //nolint:errcheck // about to die anyway
			f.Close()             //nolint:errcheck // about to die anyway
		}
	}
	kill()
}
