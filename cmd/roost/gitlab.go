package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/agent"
	"github.com/roost-ci/roost/agent/pluginhost"
	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/slots"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/gitlab"
	"github.com/roost-ci/roost/snapshot/view"
)

// gitlabAdapter wires the agent to its host's GitLab runners.
func gitlabAdapter(opts *agent.Options, all configs.Config, log hclog.Logger) error {
	g := all.GitLab
	pool, err := poolOf(g)
	if err != nil {
		return err
	}
	conf, err := pluginConfig(all, pool.Tokens)
	if err != nil {
		return err
	}
	if opts.Slots == 0 {
		opts.Slots = len(conf.Slots)
	}
	if opts.Slots != len(conf.Slots) {
		return fmt.Errorf("agent.slots is %d, but gitlab.slot_tokens_file has the tokens of %d slots", opts.Slots, len(conf.Slots))
	}
	if opts.UID, opts.GID, err = runnerUser(g); err != nil {
		return err
	}
	if g.PluginUser != "" && g.RunAs != "" && isUser(g.PluginUser, opts.UID) {
		return fmt.Errorf("gitlab.plugin_user: jobs run as %s too (gitlab.run_as), and could read the runners' tokens in the adapter's memory", g.PluginUser)
	}
	if g.Executor == gitlab.ExecutorCustom {
		conf.Socket = g.Socket
		if err := durable.MkdirAll(filepath.Dir(g.Socket), 0o755); err != nil {
			return fmt.Errorf("gitlab.socket: %w", err)
		}
	}
	host, err := pluginOptions(all, conf)
	if err != nil {
		return err
	}
	host.Settings.Host, host.Log = opts.Name, log.Named("plugin")
	opts.Pool, opts.SlotsDir = pool, slotsDir(all)
	if err := makeSlots(opts); err != nil {
		return fmt.Errorf("gitlab.slots_dir: %w", err)
	}
	if conf.Executor == gitlab.ExecutorShell {
		opts.Cgroups = runnerCgroups(cgroupRoot)
	}
	opts.Plugin = func(a plugin.Agent) (agent.Plugin, error) {
		host.Agent = a
		return pluginhost.New(host)
	}
	return nil
}

// makeSlots makes the directories of slots before a runner starts: its mount namespace gets
// them as they are then.
func makeSlots(opts *agent.Options) error {
	if opts.Store != nil {
		switch opts.Store.Driver().Name() {
		case view.NameCopy, view.NameReflink: // whose views are no mounts
			return slots.Make(opts.SlotsDir, opts.Slots)
		}
	}
	return slots.Prepare(opts.SlotsDir, opts.Slots)
}

// pluginOptions say which program the adapter is, and with what it starts.
func pluginOptions(all configs.Config, conf *gitlab.Config) (pluginhost.Options, error) {
	raw, err := json.Marshal(conf)
	if err != nil {
		return pluginhost.Options{}, err
	}
	g := all.GitLab
	host := pluginhost.Options{
		Name:     gitlab.Name,
		Program:  pluginhost.Program{Args: []string{"plugin", "gitlab"}},
		Settings: plugin.Settings{Dir: pluginDir(all), Config: raw},
		User:     g.PluginUser,
	}
	if g.Plugin != "" {
		host.Program = pluginhost.Program{Path: g.Plugin, SHA256: g.PluginChecksum}
	}
	for _, s := range conf.Slots {
		host.Settings.Slots = append(host.Settings.Slots, s.Number)
	}
	return host, nil
}

// pluginDir is the adapter's own directory. In the store's nobody but the agent's user gets
// to it.
func pluginDir(all configs.Config) string {
	if all.GitLab.PluginUser != "" {
		return all.Agent.StoreDir + ".gitlab"
	}
	return filepath.Join(all.Agent.StoreDir, "gitlab")
}

// slotsDir is where the directories of slots are. A store in a file system of its own
// has them in there, as some drivers can't leave it.
func slotsDir(all configs.Config) string {
	switch {
	case all.GitLab.SlotsDir != "":
		return all.GitLab.SlotsDir
	case all.Store.Backing == configs.XFSLoop:
		return filepath.Join(all.Agent.StoreDir, "slots")
	}
	return filepath.Join(filepath.Dir(all.Agent.StoreDir), "slots")
}

// poolOf reads what the coordinator has to know.
func poolOf(g configs.GitLab) (*api.Pool, error) {
	budget, err := time.ParseDuration(g.FetchBudget)
	if err != nil {
		return nil, err
	}
	p := &api.Pool{
		System: api.SystemGitLab, Name: g.Pool, URL: strings.TrimSuffix(g.URL, "/"),
		Mode: g.Mode, Durability: g.Durability, FetchBudgetMS: budget.Milliseconds(),
	}
	for _, f := range g.TokenFiles {
		t, err := secretLines(f)
		if err != nil {
			return nil, fmt.Errorf("gitlab.token_files: %w", err)
		}
		p.Tokens = append(p.Tokens, t...)
	}
	if g.APITokenFile != "" {
		t, err := secretLines(g.APITokenFile)
		if err != nil {
			return nil, fmt.Errorf("gitlab.api_token_file: %w", err)
		}
		p.APIToken = t[0]
	}
	return p, nil
}

// pluginConfig is what the adapter is told.
func pluginConfig(all configs.Config, tokens []string) (*gitlab.Config, error) {
	g := all.GitLab
	c := &gitlab.Config{
		URL: strings.TrimSuffix(g.URL, "/"), Listen: []string{g.Listen}, Executor: g.Executor, BuildsDir: g.BuildsDir,
		Tokens: tokens, CAFile: g.CAFile,
	}
	if g.ListenDocker != "" {
		c.Listen = append(c.Listen, g.ListenDocker)
	}
	var local []string
	if g.SlotTokensFile != "" {
		var err error
		if local, err = secretLines(g.SlotTokensFile); err != nil {
			return nil, fmt.Errorf("gitlab.slot_tokens_file: %w", err)
		}
	} else {
		local = make([]string, max(1, all.Agent.Slots)) // the custom executor's runner has its own
	}
	for i, t := range local {
		s := gitlab.Slot{Number: i + 1, Token: t}
		if g.BuildsDir == "" {
			s.BuildsDir = filepath.Join(slotsDir(all), strconv.Itoa(s.Number))
		}
		c.Slots = append(c.Slots, s)
	}
	return c, nil
}

// secretLines reads the lines of a file that its owner alone may read.
func secretLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o077 != 0 && !ignoreModes {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, fi.Mode().Perm())
	}
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if l := strings.TrimSpace(s.Text()); l != "" && !strings.HasPrefix(l, "#") {
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s holds no token", path)
	}
	return lines, nil
}

// isUser reports whether a name, or a number, is that of a user.
func isUser(name string, uid int) bool {
	if u, err := osuser.Lookup(name); err == nil {
		name = u.Uid
	}
	return name == strconv.Itoa(uid)
}

// runnerUser is who owns an empty workspace.
func runnerUser(g configs.GitLab) (uid, gid int, err error) {
	if g.RunAs == "" {
		return max(os.Geteuid(), 0), max(os.Getegid(), 0), nil
	}
	u, err := osuser.Lookup(g.RunAs)
	if err != nil {
		return 0, 0, fmt.Errorf("gitlab.run_as: %w", err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, fmt.Errorf("gitlab.run_as: %w", err)
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		return 0, 0, fmt.Errorf("gitlab.run_as: %w", err)
	}
	return uid, gid, nil
}
