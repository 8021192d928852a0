// Command mutants breaks the program in ways that matter, one at a time, and runs
// the test that has to notice. It prints "mutant -> test that failed" for each. A
// mutant that no test catches fails it, and so does one that does not compile, or
// whose place in the source is no more: then the table in table.go is behind.
//
// The source tree is not touched: go test reads the changed file through -overlay.
//
//	go run ./integration/mutants [-sample 1/2] [-jobs 2] [-only name] [-out file]
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// mutant is one way to break the program.
type mutant struct {
	name    string
	promise string // that its test is to prove
	file    string // below the root of the repository
	old     string // stands there exactly once
	new     string
	pkg     string // whose test fails
	run     string // for -run
	tags    string
	env     []string
}

// outcome is what became of one.
type outcome struct {
	mutant *mutant
	test   string // that failed
	err    error  // why it does not count
	took   time.Duration
}

func main() {
	sample := flag.String("sample", "1/1", "k/n runs every n-th mutant, from the k-th on")
	jobs := flag.Int("jobs", 2, "how many at a time")
	only := flag.String("only", "", "the mutants whose name has this in it")
	out := flag.String("out", "", "file to add a line of JSON to")
	flag.Parse()
	if err := mutate(context.Background(), os.Stdout, *sample, *jobs, *only, *out); err != nil { //nolint:forbidigo // the program's own
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func mutate(ctx context.Context, w io.Writer, sample string, jobs int, only, out string) error {
	began := time.Now() //nolint:forbidigo // how long it took is told
	list, err := choose(sample, only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // files for go test
	done := make(chan outcome)
	todo := make(chan *mutant)
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() {
			for m := range todo {
				done <- one(ctx, dir, m)
			}
		})
	}
	go func() {
		for _, m := range list {
			todo <- m
		}
		close(todo)
		wg.Wait()
		close(done)
	}()
	bad := 0
	for o := range done {
		if o.err != nil {
			bad++
			fmt.Fprintf(w, "%s: %v\n", o.mutant.name, o.err)
			continue
		}
		fmt.Fprintf(w, "%s -> %s (%s, %.1f s)\n", o.mutant.name, o.test, o.mutant.pkg, o.took.Seconds())
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d mutants were not caught", bad, len(list))
	}
	fmt.Fprintf(w, "%d of %d mutants, all caught, in %.0f s\n", len(list), len(mutants), time.Since(began).Seconds())
	return record(out, list, time.Since(began))
}

// choose picks the sample. One that is not there is a mistake in the command.
func choose(sample, only string) ([]*mutant, error) {
	k, n, ok := strings.Cut(sample, "/")
	from, err1 := strconv.Atoi(k)
	every, err2 := strconv.Atoi(n)
	if !ok || err1 != nil || err2 != nil || from < 1 || every < from {
		return nil, fmt.Errorf("-sample %q: want k/n with 1 <= k <= n", sample)
	}
	var list []*mutant
	for i := range mutants {
		if m := &mutants[i]; strings.Contains(m.name, only) && i%every == from-1 {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("no such mutant")
	}
	return list, nil
}

// one runs the test of a mutant.
func one(ctx context.Context, dir string, m *mutant) outcome {
	began := time.Now() //nolint:forbidigo // as above
	o := outcome{mutant: m}
	overlay, err := m.overlay(dir)
	if err != nil {
		o.err = err
		return o
	}
	args := []string{"test", "-overlay", overlay, "-vet=off", "-count=1", "-timeout", "300s", "-run", m.run}
	if m.tags != "" {
		args = append(args, "-tags", m.tags)
	}
	for range tries {
		cmd := exec.CommandContext(ctx, "go", append(args, m.pkg)...) //nolint:gosec // from the table
		cmd.Env = append(os.Environ(), m.env...)
		text, err := cmd.CombinedOutput()
		if o.test, o.err = verdict(text, err); !errors.Is(o.err, errSurvived) {
			break
		}
	}
	o.took = time.Since(began)
	return o
}

// tries is how often a mutant is looked for before it counts as missed: some tests kill at
// moments that are chance, and a machine that has other work moves all of them.
const tries = 3

var errSurvived = errors.New("SURVIVED: no test noticed")

// places counts where the source reads as the table says; 1 is right.
func (m *mutant) places(source []byte) int { return bytes.Count(source, []byte(m.old)) }

// overlay writes the changed file and the list that go test reads.
func (m *mutant) overlay(dir string) (string, error) {
	src, err := filepath.Abs(filepath.FromSlash(m.file))
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(src) //nolint:gosec // from the table
	if err != nil {
		return "", err
	}
	if n := m.places(b); n != 1 {
		return "", fmt.Errorf("%s has %d places that read as the table says: bring integration/mutants/table.go up to date", m.file, n)
	}
	name := strings.Map(func(r rune) rune {
		if r == ' ' || r == '/' {
			return '-'
		}
		return r
	}, m.name)
	changed, list := filepath.Join(dir, name+".go"), filepath.Join(dir, name+".json")
	if err := os.WriteFile(changed, bytes.Replace(b, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		return "", err
	}
	j, err := json.Marshal(map[string]map[string]string{"Replace": {src: changed}})
	if err != nil {
		return "", err
	}
	return list, os.WriteFile(list, j, 0o600)
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// verdict reads what go test said. Only a test that failed, or died, counts.
func verdict(text []byte, err error) (string, error) {
	tail := text[max(0, len(text)-1500):]
	switch {
	case err == nil && bytes.Contains(text, []byte("no tests to run")):
		return "", errors.New("there is no such test")
	case err == nil:
		return "", errSurvived
	case bytes.Contains(text, []byte("[build failed]")), bytes.Contains(text, []byte("[setup failed]")):
		return "", fmt.Errorf("does not compile:\n%s", tail)
	}
	names := failed.FindAllSubmatch(text, -1)
	if len(names) > 0 {
		return string(names[0][1]), nil
	}
	if bytes.Contains(text, []byte("panic: ")) {
		return "a panic", nil
	}
	return "", fmt.Errorf("go test: %w\n%s", err, tail)
}

// record adds a line for docs/promises.md.
func record(out string, list []*mutant, took time.Duration) error {
	if out == "" {
		return nil
	}
	b, err := json.Marshal(map[string]any{
		"promise": "mutants", "test": "make mutants", "count": len(list), "seconds": took.Seconds(),
		"text": fmt.Sprintf("%d of %d caught, each by the test of its promise", len(list), len(mutants)),
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // the caller's
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}
