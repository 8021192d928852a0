package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
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
	case "echo-server":
		err = echoServer()
	case "run":
		err = runCommandLine(os.Args[2:], scale)
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FATAL:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// commandConfig is what a command line says: the one file of Start, or a service's flags.
func commandConfig(args []string, scale float64) (Config, error) {
	if len(args) != 1 {
		return serviceConfig(args, scale)
	}
	c := Config{Log: io.Discard}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(b, &c)
}

// runCommandLine is a runner process: SIGTERM and SIGINT abort, SIGQUIT finishes.
func runCommandLine(args []string, scale float64) error {
	c, err := commandConfig(args, scale)
	if err != nil {
		return err
	}
	if c.LogFile != "" {
		f, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		c.Log = f
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, syscall.SIGQUIT)
	os.Unsetenv(programEnv) // or every program of a job that calls Main would be a runner
	if len(args) != 1 {
		return serve(ctx, c, args, quit)
	}
	r, err := New(c)
	if err != nil {
		return err
	}
	go func() {
		<-quit
		r.Quit()
	}()
	return r.Run(ctx)
}

// echoServer is a job's service: it says its host's name to everybody who comes to port
// 7007, and then what they said.
func echoServer() error {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", ":7007")
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			name, _ := os.Hostname()
			line, _ := bufio.NewReader(c).ReadString('\n')
			fmt.Fprintf(c, "%s heard %s", name, line)
		}()
	}
}
