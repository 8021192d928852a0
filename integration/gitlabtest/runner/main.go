package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// Main does what the runner's program is called for and exits, if this process was
// started as one; else it returns. It stands first in TestMain of every package that
// uses runner.
func Main() {
	if os.Getenv(programEnv) == "" || len(os.Args) < 2 {
		return
	}
	scale, _ := strconv.ParseFloat(os.Getenv(scaleEnv), 64)
	var err error
	switch os.Args[1] {
	case "artifacts-uploader":
		err = uploadCommand(os.Args[2:], scale, os.Stdout)
	case "artifacts-downloader":
		err = downloadCommand(os.Args[2:], scale, os.Stdout)
	case "run":
		err = runCommandLine(os.Args[2])
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FATAL:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runCommandLine is a runner process: SIGTERM and SIGINT abort, SIGQUIT finishes.
func runCommandLine(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	c.Log = io.Discard
	if c.LogFile != "" {
		f, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		c.Log = f
	}
	r, err := New(c)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, syscall.SIGQUIT)
	go func() {
		<-quit
		r.Quit()
	}()
	os.Unsetenv(programEnv) // or every program of a job that calls Main would be a runner
	return r.Run(ctx)
}
