// Command table writes docs/promises.md from what a run of make promises found: a
// file with one line of JSON for each test and driver.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// promise is a row. What is in CI and in full stands in the tests as well; the
// numbers of the last run come from there.
type promise struct{ name, what, test, ci, full string }

var promises = []promise{
	{"kill -9", "kill -9 at any moment of seal, pack, image, mount, unmount, import and removal loses no acknowledged layer and leaves no mount, loop device or process", "TestKill", "500", "5,000"},
	{"power cut", "the power of the disk fails at any write or flush, once or again while the store recovers: what was said to be synced, packed, durable, created or restored is there and exact, what was only sealed or fetched is exact, in doubt or gone", "TestPowerCut", "50", "400"},
	{"power cut, the order of syncs", "what was written is synced before it gets its name, the name before the row that counts on it, the row before the answer", "TestOrder", "every operation", "every operation"},
	{"ENOSPC and EIO", "each write-like system call of every operation fails, alone or with all that follow: done or not done, and the next try works", "TestFaults", "a sample", "every call"},
	{"flipped bits", "a flipped bit in a stored object is found before it is used", "TestFlips, TestFlipsOnDisk, TestFlippedSources", "20,000", "500,000"},
	{"malicious layers", "a layer made to do harm is refused or harmless, nothing outside of the store is touched", "TestEvilLayers", "300", "1,500"},
	{"hostile trees", "a tree that is hard to keep is packed, restored elsewhere and deleted exactly", "TestHostileTrees", "45", "500"},
	{"mutants", "each promise has bugs that its test must catch; they are put in one by one", "make mutants", "all or a stated part", "all"},
}

type result struct {
	Promise string  `json:"promise"`
	Test    string  `json:"test"`
	Count   int     `json:"count"`
	Text    string  `json:"text"`
	Seconds float64 `json:"seconds"`
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer) error {
	if len(args) != 2 {
		return errors.New("want the file with the results, and how much of it was run")
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	found := map[string][]result{}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		var r result
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		found[r.Promise] = append(found[r.Promise], r)
	}
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output() //nolint:noctx // at once
	if err != nil {
		return fmt.Errorf("git describe: %w", err)
	}
	return write(w, found, strings.TrimSpace(string(commit)), args[1])
}

func write(w io.Writer, found map[string][]result, commit, level string) error {
	b := &bytes.Buffer{}
	fmt.Fprintf(b, "# What the store survives\n\nWritten by `make promises` from the results of its tests: commit %s, %s, %s/%s, %d cores.\nCI runs the same tests with the smaller numbers, on every change.\n\n",
		commit, time.Now().UTC().Format("2 January 2006"), runtime.GOOS, runtime.GOARCH, runtime.NumCPU()) //nolint:forbidigo // the day is told
	fmt.Fprintln(b, "| Promise | Test | In CI | In full |\n|---|---|---|---|")
	for _, p := range promises {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", p.what, p.test, p.ci, p.full)
	}
	fmt.Fprintf(b, "\n## What the last run found\n\nLevel %q; nothing stands here that did not pass.\n\n", level)
	fmt.Fprintln(b, "| Promise | Test | Times | Result | Seconds |\n|---|---|---|---|---|")
	for _, p := range promises {
		if len(found[p.name]) == 0 {
			return fmt.Errorf("%s: no result, so the run was not whole", p.name)
		}
		for _, r := range found[p.name] {
			fmt.Fprintf(b, "| %s | %s | %d | %s | %.0f |\n", p.name, r.Test, r.Count, r.Text, r.Seconds)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}
