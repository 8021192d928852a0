package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	osuser "os/user"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/gitlab/custom"
)

// defaultSocket is gitlab.socket's default.
const defaultSocket = "/run/roost/gitlab.sock"

// newGitLabCustom is the executable of GitLab Runner's custom executor.
func newGitLabCustom() *cobra.Command {
	var (
		client custom.Client
		user   string
	)
	c := &cobra.Command{
		Use:    "gitlab-custom",
		Short:  "Custom executor of GitLab Runner: called by the runner, never by hand",
		Hidden: true,
		Long: `config_exec, prepare_exec, run_exec and cleanup_exec of a runner whose url can't point
to Roost: a job gets its workspace where it happens to run, and leaves it there for
the next. roost install gitlab --executor custom writes the configuration.`,
	}
	c.PersistentFlags().StringVar(&client.Socket, "socket", defaultSocket, "the agent's socket (gitlab.socket)")
	c.PersistentFlags().IntVar(&client.Slot, "slot", 0, "the slot to use; 0: any")
	stage := func(use string, args cobra.PositionalArgs, run func(ctx context.Context, args []string) error) *cobra.Command {
		s := &cobra.Command{Use: use, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			client.Version, client.Env = version, os.Environ()
			client.Stdout, client.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if user != "" {
				client.Shell = shellAs(user)
			}
			err := run(cmd.Context(), args)
			var exit *custom.ExitError
			if errors.As(err, &exit) {
				return &exitError{code: exit.Code}
			}
			return err
		}}
		c.AddCommand(s)
		return s
	}
	stage("config", cobra.NoArgs, func(ctx context.Context, _ []string) error { return client.Config(ctx) })
	stage("prepare", cobra.NoArgs, func(ctx context.Context, _ []string) error { return client.Prepare(ctx) })
	stage("run SCRIPT STAGE", cobra.ExactArgs(2), func(ctx context.Context, args []string) error {
		if err := client.Run(ctx, args[0], args[1]); err != nil || args[1] != "get_sources" {
			return err
		}
		return cleanSources(ctx, &client)
	}).Flags().StringVar(&user, "user", "", "run scripts as this user")
	stage("cleanup", cobra.NoArgs, func(ctx context.Context, _ []string) error { return client.Cleanup(ctx) })
	return c
}

// cleanSources does for a job without a workspace what its runner was told to leave out
// for the sake of those that have one: git clean.
func cleanSources(ctx context.Context, client *custom.Client) error {
	dir := os.Getenv("CUSTOM_ENV_CI_PROJECT_DIR")
	if s := os.Getenv("ROOST_WORKSPACE_STATE"); s == plugin.StateFull || s == plugin.StateFresh || dir == "" || !wantsClean(os.Getenv("JOB_RESPONSE_FILE")) {
		return nil
	}
	f, err := os.CreateTemp("", "clean-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // in the runner's own directory, which goes
	_, err = fmt.Fprintf(f, "cd '%s' && git clean -ffdx\n", strings.ReplaceAll(dir, "'", `'\''`))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return client.Run(ctx, f.Name(), "get_sources")
}

// wantsClean reports whether a stock runner would have cleaned the job's directory, by what
// the job itself says.
func wantsClean(payload string) bool {
	var job struct {
		Variables []struct{ Key, Value string } `json:"variables"`
	}
	b, err := os.ReadFile(payload)
	if err != nil || json.Unmarshal(b, &job) != nil {
		return false
	}
	last := map[string]string{}
	for _, v := range job.Variables {
		last[v.Key] = v.Value
	}
	return last["GIT_CLEAN_FLAGS"] == "" && last["GIT_STRATEGY"] != "none" && last["GIT_CHECKOUT"] != "false"
}

// shellAs runs scripts in another user's login shell. The runner's directory with the script
// is root's alone, so that the script comes by standard input, as the shell executor has it.
func shellAs(name string) func(ctx context.Context, script string) (*osexec.Cmd, error) {
	return func(ctx context.Context, script string) (*osexec.Cmd, error) {
		u, err := osuser.Lookup(name)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(script)
		if err != nil {
			return nil, err
		}
		cmd := osexec.CommandContext(ctx, "bash", "-l")
		cmd.Stdin, cmd.Dir = f, u.HomeDir
		if _, err := os.Stat(u.HomeDir); err != nil {
			cmd.Dir = "/"
		}
		// What the runner says of its own directories is nothing that the user could use.
		cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
			k, _, _ := strings.Cut(kv, "=")
			return slices.Contains([]string{"TMPDIR", "HOME", "USER", "LOGNAME"}, k)
		})
		cmd.Env = append(cmd.Env, "HOME="+u.HomeDir, "USER="+u.Username, "LOGNAME="+u.Username)
		if err := runAs(cmd, u); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return cmd, nil
	}
}
