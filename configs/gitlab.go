package configs

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// GitLab configures the adapter that stands between a host's GitLab runners and
// their GitLab.
type GitLab struct {
	URL            string   `mapstructure:"url" default:"" doc:"The GitLab instance, such as https://gitlab.example.org. Empty: no GitLab."`
	Pool           string   `mapstructure:"pool" default:"default" doc:"Name of the pool: the hosts of one pool have runners of the same tags and the same scope, and take each other's jobs."`
	TokenFiles     []string `mapstructure:"token_files" default:"" doc:"Files with the runners' tokens, as GitLab gave them. Must be readable by their owner alone."`
	APITokenFile   string   `mapstructure:"api_token_file" default:"" doc:"File with a token that may read pipelines (read_api): with it the coordinator knows what a job needs. Empty: ROOST_NEEDS, dependencies and stages tell."`
	CAFile         string   `mapstructure:"ca_file" default:"" doc:"Certificates (PEM) to trust for the instance besides the system's."`
	Listen         string   `mapstructure:"listen" default:"127.0.0.1:929" doc:"Address where runners find the agent: the url of slot 3 is http://ADDRESS/slot3. Loopback only. A port below 1024, which root alone may take: a job that took it while the agent restarts would be given the runners' tokens."`
	ListenDocker   string   `mapstructure:"listen_docker" default:"" doc:"Second address, for the containers of the docker executor, which fetch and upload artifacts: the bridge's gateway, such as 172.17.0.1:929. Every call there needs the token of a slot or of a job."`
	Executor       string   `mapstructure:"executor" default:"shell" doc:"The runners' executor: shell, docker or custom."`
	BuildsDir      string   `mapstructure:"builds_dir" default:"/builds" doc:"builds_dir of the runners, as a job sees it; it must show the slot's directory SLOTS_DIR/N. Empty: the slot's directory itself, another path in each slot."`
	SlotsDir       string   `mapstructure:"slots_dir" default:"" doc:"Directory that has a directory for each slot, where the workspace of its job appears. Empty: slots beside agent.store_dir. Drivers that copy need it on the store's file system."`
	Socket         string   `mapstructure:"socket" default:"/run/roost/gitlab.sock" doc:"Socket where the custom executor (roost gitlab-custom) finds the agent."`
	SlotTokensFile string   `mapstructure:"slot_tokens_file" default:"" doc:"File with the local token of each slot's runner, one per line, the first for slot 1. They are known to this host alone. Must be readable by its owner alone."`
	RunAs          string   `mapstructure:"run_as" default:"" doc:"User that the shell executor's jobs run as, who owns an empty workspace. Empty: root."`
	Mode           string   `mapstructure:"mode" default:"optional" reload:"yes" doc:"What a job is that does not say it: optional jobs start on an empty directory when their workspace can't be had, as on any runner; required ones fail as a system failure before their first command. off: jobs have no workspace unless they ask for one."`
	Durability     string   `mapstructure:"durability" default:"local" reload:"yes" doc:"What a job's success means if it does not say it: local, its files are sealed on this host; synced, on its disk; durable, in the blob store."`
	FetchBudget    string   `mapstructure:"fetch_budget" default:"60s" reload:"yes" doc:"How long an optional job waits for its workspace without progress before it starts on an empty directory. Duration, 1s to 1h."`
	Plugin         string   `mapstructure:"plugin" default:"" doc:"Program of the adapter, an absolute path. Empty: roost's own."`
	PluginUser     string   `mapstructure:"plugin_user" default:"" doc:"User that the adapter's process runs as: a name or a number, of whom nothing else runs; it must be able to get to STORE_DIR.gitlab, where the adapter keeps its records then. Empty: the agent's own."`
	PluginChecksum string   `mapstructure:"plugin_checksum" default:"" doc:"SHA-256 that the adapter's program must have. Needs plugin."`
}

// On reports whether the host has GitLab runners.
func (g *GitLab) On() bool { return g.URL != "" }

// Words of gitlab.executor, mode and durability.
var (
	Executors    = []string{"shell", "docker", "custom"}
	Modes        = []string{"off", "optional", "required"}
	Durabilities = []string{"local", "synced", "durable"}
)

var sumRE = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (g *GitLab) validate(bad func(key, format string, a ...any)) {
	for _, k := range []struct {
		key, value string
		words      []string
	}{
		{"executor", g.Executor, Executors}, {"mode", g.Mode, Modes}, {"durability", g.Durability, Durabilities},
	} {
		if !slices.Contains(k.words, k.value) {
			bad("gitlab."+k.key, "%q is none of %s", k.value, strings.Join(k.words, ", "))
		}
	}
	if d, err := time.ParseDuration(g.FetchBudget); err != nil || d < time.Second || d > time.Hour {
		bad("gitlab.fetch_budget", "%q is not a duration from 1s to 1h", g.FetchBudget)
	}
	if !nameRE.MatchString(g.Pool) {
		bad("gitlab.pool", "%q is not a name of up to 64 letters, digits, dots, dashes", g.Pool)
	}
	g.validatePaths(bad)
	g.validateAddresses(bad)
	if !g.On() {
		return
	}
	if err := origin(g.URL); err != nil {
		bad("gitlab.url", "%v", err)
	}
	if len(g.TokenFiles) == 0 && g.Executor != "custom" {
		bad("gitlab.token_files", "missing: the runner's token tells GitLab which jobs it may have")
	}
	if g.SlotTokensFile == "" && g.Executor != "custom" {
		bad("gitlab.slot_tokens_file", "missing: it is how the slots' runners are told apart")
	}
}

// validatePaths checks directories, the socket and the plugin's program.
func (g *GitLab) validatePaths(bad func(key, format string, a ...any)) {
	for _, k := range []struct{ key, dir string }{{"builds_dir", g.BuildsDir}, {"slots_dir", g.SlotsDir}} {
		if k.dir != "" && (!filepath.IsAbs(k.dir) || filepath.Clean(k.dir) != k.dir || k.dir == "/") {
			bad("gitlab."+k.key, "%q is not an absolute path without . and ..", k.dir)
		}
	}
	if !filepath.IsAbs(g.Socket) || len(g.Socket) > 100 {
		bad("gitlab.socket", "%q is not an absolute path of at most 100 bytes", g.Socket)
	}
	if g.PluginChecksum != "" && !sumRE.MatchString(g.PluginChecksum) {
		bad("gitlab.plugin_checksum", "%q is not a SHA-256 in 64 digits 0-9 a-f", g.PluginChecksum)
	}
	if g.Plugin != "" && !filepath.IsAbs(g.Plugin) {
		bad("gitlab.plugin", "%q is not an absolute path", g.Plugin)
	}
	if (g.Plugin == "") != (g.PluginChecksum == "") {
		bad("gitlab.plugin_checksum", "a program of others runs as root here: plugin and plugin_checksum come together")
	}
}

// validateAddresses checks where runners find the agent.
func (g *GitLab) validateAddresses(bad func(key, format string, a ...any)) {
	if err := Loopback(g.Listen); err != nil {
		bad("gitlab.listen", "%v", err)
	}
	if g.ListenDocker == "" {
		return
	}
	host, _, err := net.SplitHostPort(g.ListenDocker)
	ip := net.ParseIP(host)
	switch {
	case err != nil || ip == nil:
		bad("gitlab.listen_docker", "%q is not IP:port", g.ListenDocker)
	case ip.IsUnspecified():
		bad("gitlab.listen_docker", "%q is every address of this machine; give the bridge's own", g.ListenDocker)
	}
}

// origin checks the URL of a GitLab instance: scheme, host and at most a path that
// the instance is served under.
func origin(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q is not a URL such as https://gitlab.example.org", s)
	}
	return nil
}
