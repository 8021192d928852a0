package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// shell is the shell executor (section 5).
type shell struct{ b *build }

func (s *shell) prepare(context.Context) error {
	e := s.b.cl.e
	root, cache := e.BuildsDir, e.CacheDir
	wd, err := os.Getwd()
	if err != nil {
		return systemError(err)
	}
	if root == "" {
		root = filepath.Join(wd, "builds")
	}
	if cache == "" {
		cache = filepath.Join(wd, "cache")
	}
	if err := s.b.prepareDirs(root, cache, true, false); err != nil {
		return err
	}
	fmt.Fprintf(s.b.out, "\x1b[36;1mUsing Shell (bash) executor...\x1b[0;m\n")
	return nil
}

// run feeds a login shell of a process group of its own. Its normal end kills nothing,
// and whoever keeps its output open is waited for, as a real runner does.
func (s *shell) run(ctx context.Context, sc script) error {
	args := []string{"bash", "-l"}
	if u := s.b.cl.e.User; u != "" {
		args = []string{"su", "-s", "/bin/bash", u, "-c", "bash -l"}
	}
	// one expression, so that bash has read all of it before a command can eat its input
	text := "eval " + quote(sc.text) + "\nexit 0\n"
	return runCommand(ctx, s.b, args, os.Environ(), text)
}

func (s *shell) cleanup() {}

// runCommand runs a program whose exit code is the script's.
func runCommand(ctx context.Context, b *build, args, env []string, stdin string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), b.out, b.out
	cmd.Env = env
	err := runGroup(ctx, b, cmd)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &buildError{err: fmt.Errorf("exit status %d", exit.ExitCode()), reason: "script_failure", exit: exit.ExitCode()}
	}
	return err
}

// runGroup runs a program in a process group of its own, and ends the group when ctx
// ends: SIGTERM, after the graceful time SIGKILL. It returns the program's own *exec.ExitError.
func runGroup(ctx context.Context, b *build, cmd *exec.Cmd) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return systemError(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	endGroup(cmd.Process.Pid)
	select {
	case <-done:
	case <-time.After(b.c.scaled(cmp.Or(b.cl.e.GracefulKill, 10*time.Minute))):
		killGroup(cmd.Process.Pid)
		select {
		case <-done:
		case <-time.After(b.c.scaled(cmp.Or(b.cl.e.ForceKill, 10*time.Second))):
		}
	}
	return context.Cause(ctx)
}
