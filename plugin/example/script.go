//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// wrapper runs a script and leaves its exit code. It outlives the plugin, and so the script does. It
// holds the lock on descriptor 3 as long as it lives: its process id says nothing once
// another process may have it.
const wrapper = `echo $$ >&3
sh -e "$1" 3>&-; code=$?
echo $code > "$2.tmp" && mv "$2.tmp" "$2"`

// launch starts the script in the background.
func (j *job) launch(script string, env map[string]string, out *os.File) error {
	if err := os.WriteFile(j.path(".sh"), []byte(script+"\n"), 0o600); err != nil {
		return err
	}
	lock, err := os.OpenFile(j.path(".lock"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // the child's is the same lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", wrapper, "sh", j.path(".sh"), j.path(".exit"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = j.record.Work, out, out
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // how it ended is in its file
	return nil
}

// wait waits for the exit code.
func (j *job) wait(ctx context.Context) (int, error) {
	for {
		alive := j.alive()
		if b, err := os.ReadFile(j.path(".exit")); err == nil {
			return strconv.Atoi(strings.TrimSpace(string(b)))
		}
		if !alive {
			return 0, errors.New("the script disappeared: the host was restarted, or it was killed")
		}
		if j.gone {
			// The agent ended the attempt without us, and it did not succeed.
			return 0, j.loseOr(errLost)
		}
		select {
		case <-j.stop:
			return 0, errLost
		default:
		}
		if !sleep(ctx, pause) {
			return 0, ctx.Err()
		}
	}
}

// never reports whether the script never began: the process died between its record and the
// script's start.
func (j *job) never() bool {
	if j.alive() {
		return false
	}
	b, err := os.ReadFile(j.path(".lock"))
	return err != nil || len(b) == 0
}

func (j *job) loseOr(err error) error {
	if e := j.lose("the agent does not have it any more"); e != nil {
		return fmt.Errorf("%w: %w", err, e)
	}
	return err
}

// alive reports whether the wrapper lives.
func (j *job) alive() bool {
	lock, err := os.Open(j.path(".lock"))
	if err != nil {
		return false
	}
	defer lock.Close()
	return syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// kill kills the script and what it started in its session's group.
func (j *job) kill() {
	for j.alive() {
		b, _ := os.ReadFile(j.path(".lock"))
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && pid > 1 {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
		sleep(context.Background(), pause)
	}
}
