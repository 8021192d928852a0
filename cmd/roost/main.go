// Command roost is all of Roost: coordinator, agent, and the command line that
// people use. Each file holds one command; what they wire together lives in the
// packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/plugin/exec"
)

// version is set by the linker.
var version = "dev"

func main() {
	// A job's first process is this binary again, on its way into the job's own
	// mount namespace. It never comes back from here.
	exec.MaybeChild()
	os.Exit(realMain(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// realMain runs one command and returns its exit status.
func realMain(args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := interruptible(errw)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	if err := checkWords(root, args); err != nil {
		return report(errw, err)
	}
	return report(errw, root.ExecuteContext(ctx))
}

// interruptible returns the root context. The first SIGINT or SIGTERM ends it, so
// that commands clean up; the second ends the process at once. The end of the
// terminal is one too, unless nohup says otherwise.
func interruptible(errw io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	hup := newHangup()
	ctx = context.WithValue(ctx, hangupKey{}, hup)
	sig := make(chan os.Signal, 2)
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	// Whoever reads our output may go; what we have begun is still brought to an
	// end. (Not ignored: jobs would inherit that.)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(sig, syscall.SIGHUP)
	}
	go func() {
		for n := 0; ; {
			s, ok := <-sig
			if !ok {
				return
			}
			if s == syscall.SIGHUP && hup.reload() {
				continue
			}
			if n++; n > 1 {
				os.Exit(exitInterrupted)
			}
			cancel(errInterrupted)
			if s == os.Interrupt {
				if isTerminal(errw) {
					fmt.Fprint(errw, "\r\x1b[K")
				}
				fmt.Fprintln(errw, "interrupted; cleaning up (again to stop at once)")
			}
		}
	}()
	return ctx, func() {
		signal.Stop(sig)
		close(sig)
		cancel(nil)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "roost",
		Short: "Sticky workspaces for CI: what a job leaves behind is there for the next one",
		Long: `Roost keeps what a CI job leaves in its directory and gives it to the next job
of the pipeline at once, on the same host without copying a byte, on another
host by moving only what is missing there.

Start with:  roost run FILE      runs a pipeline file on this machine
             roost doctor        tells what this machine can do
             roost status        tells what a coordinator's hosts and pipelines do` + exitHelp,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate(versionLine() + "\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError(errors.New(parsing.ReplaceAllString(err.Error(), ": ")), "see: "+c.CommandPath()+" --help")
	})
	root.AddCommand(newRun(), newUp(), newStatus(), newWhy(), newDoctor(), newCoordinator(), newAgent(),
		newConfig(), newPlugin(), newGitLabCustom(), newInstall(), newUninstall(), newGC(), newVerify(), newSnapshot(), newVersion())
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	return root
}

// parsing is what package strconv says of a flag's value, behind the value itself.
var parsing = regexp.MustCompile(`: strconv\.\w+: parsing "(?:[^"\\]|\\.)*": `)

// wrapArgs makes a wrong number of arguments a usage error like any other.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError(err, "usage: "+cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// report prints an error with its hint and returns the exit status.
func report(errw io.Writer, err error) int {
	if err == nil {
		return 0
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = &exitError{code: exitUsage, err: err}
		if errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled) {
			e.code = exitInterrupted
		}
	}
	if errors.Is(e.err, syscall.EPIPE) && toStdout(e.err) { // whoever read it has seen enough, such as head(1)
		return e.code
	}
	if e.err != nil {
		fmt.Fprintln(errw, "roost:", e.err)
	}
	if e.hint != "" {
		fmt.Fprintln(errw, "  ", e.hint)
	}
	return e.code
}
