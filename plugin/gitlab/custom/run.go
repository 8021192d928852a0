package custom

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// Run is run_exec: it runs one stage's script with bash and tells how it ended. The script's
// processes get what the runner sends to this one: they are in its group.
func (c *Client) Run(ctx context.Context, script, stage string) error {
	c.tell(ctx, stage, -1)
	cmd, err := c.shell(ctx, script)
	if err != nil {
		fmt.Fprintf(c.Stderr, "roost: %v\n", err)
		c.tell(ctx, stage, 255)
		return c.systemFailure()
	}
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		c.tell(ctx, stage, 0)
		return nil
	case errors.As(err, &exit):
		code := max(1, exit.ExitCode())
		c.tell(ctx, stage, code)
		return c.failure(code)
	}
	fmt.Fprintf(c.Stderr, "roost: %v\n", err)
	c.tell(ctx, stage, 255)
	return c.systemFailure()
}

func (c *Client) shell(ctx context.Context, script string) (*exec.Cmd, error) {
	if c.Shell != nil {
		return c.Shell(ctx, script)
	}
	cmd := exec.CommandContext(ctx, "bash", script) //nolint:gosec // running it is what this is for
	cmd.Env = c.Env
	return cmd, nil
}

// failure is the exit status of a script that failed; its own goes by a file.
func (c *Client) failure(code int) error {
	if name := c.env("BUILD_EXIT_CODE_FILE"); name != "" {
		if err := os.WriteFile(name, []byte(strconv.Itoa(code)), 0o600); err != nil {
			fmt.Fprintf(c.Stderr, "roost: %v\n", err)
		}
	}
	return &ExitError{c.code("BUILD_FAILURE_EXIT_CODE", 1)}
}

// tell notes how a stage stands. A plugin that does not hear of an end takes the job
// for a failed one, so that an end is tried for longer.
func (c *Client) tell(ctx context.Context, stage string, exit int) {
	tries := 1
	if exit >= 0 {
		tries = 20
	}
	ctx = context.WithoutCancel(ctx)
	for i := range tries {
		_, err := c.call(ctx, PathStage, Request{Stage: stage, Exit: exit}, 10*time.Second)
		if err == nil {
			return
		}
		if i == tries-1 && exit >= 0 {
			fmt.Fprintf(c.Stderr, "roost: the workspace will not be kept: %v\n", err)
			return
		}
		if exit >= 0 {
			time.Sleep(500 * time.Millisecond)
		}
	}
}
