package testenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Loops lists the loop devices whose file has dir in its path, once those that are about to
// go have gone. A device goes with its last user, and for a moment that may be another
// process that looks through all devices for a file of its own.
func Loops(t testing.TB, dir string) []string {
	t.Helper()
	const most, tick = time.Minute, 5 * time.Millisecond
	for waited := time.Duration(0); ; waited += tick {
		found := loopsNow(t, dir)
		if len(found) == 0 || waited >= most {
			return found
		}
		time.Sleep(tick)
	}
}

func loopsNow(t testing.TB, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), dir) {
			found = append(found, name+" "+strings.TrimSpace(string(b)))
		}
	}
	return found
}
