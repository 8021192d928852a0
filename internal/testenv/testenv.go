// Package testenv says what a test needs of the machine. A missing need skips the
// test on a laptop and fails it where ROOST_TEST_REQUIRE=all is set, as in CI: a
// test that could not run must never look like one that passed.
package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// Need is something that not every machine has.
type Need string

// What tests ask for.
const (
	Root    Need = "root"    // uid 0 with the right to mount
	Linux   Need = "linux"   //
	Overlay Need = "overlay" // the overlay file system and the mount API
	Loop    Need = "loop"    // loop devices and mkfs.ext4
	Fuse    Need = "fuse"    // the kernel's part of it
	Bash    Need = "bash"
	Git     Need = "git"
	Go      Need = "go"
	S3      Need = "s3" // versitygw, an S3 server: in $PATH, named by ROOST_VERSITYGW, or built where required
)

// Require skips or fails t when the machine lacks one of needs.
func Require(t testing.TB, needs ...Need) {
	t.Helper()
	for _, n := range needs {
		if why := missing(n); why != "" {
			if os.Getenv("ROOST_TEST_REQUIRE") == "all" {
				t.Fatalf("needs %s, which is required here: %s", n, why)
			}
			t.Skipf("needs %s: %s", n, why)
		}
	}
}

func missing(n Need) string {
	switch n {
	case Root:
		if os.Geteuid() != 0 {
			return "not running as root"
		}
	case Linux:
		if runtime.GOOS != "linux" {
			return "this is " + runtime.GOOS
		}
	case Overlay:
		if os.Geteuid() != 0 || runtime.GOOS != "linux" {
			return "overlay mounts need root on Linux"
		}
		b, err := os.ReadFile("/proc/filesystems")
		if err != nil || !strings.Contains(string(b), "\toverlay\n") {
			return "the kernel has no overlay file system"
		}
	case Loop:
		if os.Geteuid() != 0 {
			return "loop devices need root"
		}
		if _, err := os.Stat("/dev/loop-control"); err != nil {
			return err.Error()
		}
		if _, err := exec.LookPath("mkfs.ext4"); err != nil {
			return err.Error()
		}
	case Fuse:
		if _, err := os.Stat("/dev/fuse"); err != nil {
			return err.Error()
		}
	case S3:
		if err := findS3(); err != nil {
			return err.Error()
		}
	default:
		if _, err := exec.LookPath(string(n)); err != nil {
			return err.Error()
		}
	}
	return ""
}

// S3Server is the program that serves S3 to tests.
func S3Server() string {
	if p := os.Getenv("ROOST_VERSITYGW"); p != "" {
		return p
	}
	return "versitygw"
}

// findS3 looks for that program. Where it is required and not there it is built, as
// tools/go.mod has it; that takes minutes the first time.
func findS3() error {
	_, err := exec.LookPath(S3Server())
	if err == nil || os.Getenv("ROOST_TEST_REQUIRE") != "all" {
		return err
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "tool", "-modfile=tools/go.mod", "-n", "versitygw")
	cmd.Dir = strings.TrimSpace(string(root))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	lines := strings.Fields(string(out))
	return os.Setenv("ROOST_VERSITYGW", lines[len(lines)-1])
}
