package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/install"
	"github.com/roost-ci/roost/internal/runnerconf"
)

// createdPrefix begins the tokens of runners that were created in GitLab, not registered.
const createdPrefix = "glrt-"

// slotTokens are the slots' local tokens: those from before, and new ones. They are of the
// kind of the real one: gitlab-runner treats runners that were created in GitLab in other
// ways than registered ones, and knows them by the prefix.
func (o *installOptions) slotTokens(old *install.Journal, n int, real string) ([]string, error) {
	var tokens []string
	prefix := ""
	if strings.HasPrefix(real, createdPrefix) {
		prefix = createdPrefix
	}
	if old != nil {
		var err error
		if tokens, err = secretLines(o.path("slot.tokens")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	for len(tokens) < n {
		var b [20]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		tokens = append(tokens, prefix+hex.EncodeToString(b[:]))
	}
	return tokens[:n], nil
}

// roostFiles are the agent's configuration and secrets.
func (o *installOptions) roostFiles(p *installPlan, tokens []string, line *joinLine) error {
	p.addSecret(o.path("gitlab-runner.token"), p.found.Token+"\n")
	p.addSecret(o.path("slot.tokens"), "# The local tokens of this host's slots. They are worth nothing elsewhere.\n"+strings.Join(tokens, "\n")+"\n")
	path := o.path("config.toml")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		text, err = freshConfig(p.wish), nil
	}
	if err != nil {
		return err
	}
	k := &keys{}
	if k.f, k.err = runnerconf.Parse(text); k.err == nil {
		o.agentKeys(p, k, line)
		o.gitlabKeys(p, k)
	}
	if p.wish.WithCoordinator && k.err == nil {
		k.err = o.coordinatorKeys(p, k)
	}
	if k.err != nil {
		return usageError(fmt.Errorf("%s: %w", path, k.err), "")
	}
	if _, err := configs.Parse(k.f.String(), nil); err != nil {
		return usageError(fmt.Errorf("%s would be wrong: %w", path, err), "")
	}
	p.files = append(p.files, install.File{Path: path, Text: k.f.Bytes(), Mode: 0o644, Editable: true})
	return nil
}

// freshConfig is a configuration for a host that has none: every key of the sections it
// needs, at its default.
func freshConfig(w wish) []byte {
	sections := []string{"agent", "store", "gitlab"}
	if w.WithCoordinator {
		sections = append(sections, "coordinator")
	}
	return []byte(strings.Replace(configs.Example(sections...), "Every key stands at its default; leave out what you don't change.",
		"Written by roost install gitlab. Edit it and then:\n# systemctl reload roost-agent. All keys: roost config reference", 1))
}

// keys is a configuration whose keys are being set. The first error stays, and nothing
// is set after it.
type keys struct {
	f   *runnerconf.File
	err error
}

func (k *keys) set(value any, section, key string) {
	if k.err == nil {
		k.f, k.err = k.f.Set(value, section, key)
	}
}

// agentKeys are those of this host, and where its coordinator is if it has just joined.
func (o *installOptions) agentKeys(p *installPlan, k *keys, line *joinLine) {
	k.set(filepath.Join(o.lib, "store"), "agent", "store_dir")
	k.set(p.wish.Slots, "agent", "slots")
	if line != nil {
		p.addSecret(o.path("agent.token"), line.token+"\n")
		k.set(line.URL, "agent", "coordinator")
		k.set(line.Pin, "agent", "coordinator_pin")
		k.set(o.path("agent.token"), "agent", "token_file")
	} else if token, err := os.ReadFile(o.path("agent.token")); err == nil && !p.wish.WithCoordinator {
		p.addSecret(o.path("agent.token"), string(token)) // joined before
	}
}

// gitlabKeys are those of the runner whose jobs come through here.
func (o *installOptions) gitlabKeys(p *installPlan, k *keys) {
	w := p.wish
	k.set(p.serverURL(), "gitlab", "url")
	k.set(w.Pool, "gitlab", "pool")
	k.set([]string{o.path("gitlab-runner.token")}, "gitlab", "token_files")
	k.set(o.path("slot.tokens"), "gitlab", "slot_tokens_file")
	k.set(p.found.CAFile, "gitlab", "ca_file")
	k.set("127.0.0.1:"+strconv.Itoa(w.Port), "gitlab", "listen")
	docker := ""
	if w.Address != "" {
		docker = net.JoinHostPort(w.Address, strconv.Itoa(w.Port))
	}
	k.set(docker, "gitlab", "listen_docker")
	executor, builds := p.found.Executor, o.buildsDir(p)
	switch p.layout {
	case runnerconf.Called:
		executor = runnerconf.Custom
	case runnerconf.PerSlot:
		builds = ""
	case runnerconf.Shared, runnerconf.Apart: // as the runner has it
	}
	k.set(executor, "gitlab", "executor")
	k.set(builds, "gitlab", "builds_dir")
	k.set(filepath.Join(o.lib, "slots"), "gitlab", "slots_dir")
	k.set(o.socket, "gitlab", "socket")
	k.set(w.User, "gitlab", "run_as")
}

// serverURL is GitLab's, without what old runners' configurations have behind it.
func (p *installPlan) serverURL() string {
	return strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(p.found.URL, "/"), "/ci"), "/")
}

// coordinatorKeys are those of a coordinator on this host.
func (o *installOptions) coordinatorKeys(p *installPlan, k *keys) error {
	if p.wish.Listen == "" {
		p.wish.Listen = "0.0.0.0:7780"
	}
	_, port, err := net.SplitHostPort(p.wish.Listen)
	if err != nil {
		return fmt.Errorf("--coordinator-listen: %w", err)
	}
	dir := filepath.Join(o.lib, "coordinator")
	k.set(p.wish.Listen, "coordinator", "listen")
	k.set(dir, "coordinator", "state_dir")
	k.set([]string{p.serverURL()}, "coordinator", "gitlab_urls")
	k.set(p.found.CAFile, "coordinator", "gitlab_ca_file")
	k.set(filepath.Join(dir, "agent.token"), "agent", "token_file")
	if configs.Loopback(p.wish.Listen) == nil {
		k.set("http://"+p.wish.Listen, "agent", "coordinator")
		k.set("", "agent", "coordinator_pin")
		return k.err
	}
	pin := strings.Repeat("0", 64) // --dry-run: there is none yet
	if !o.dryRun {
		// Others have to get to the slots in there; the coordinator's own is 0700.
		if err := durable.MkdirAll(o.lib, 0o755); err != nil {
			return err
		}
		if _, err := ensureToken(filepath.Join(dir, "agent.token")); err != nil {
			return err
		}
		if _, _, err := ensureCertificate(filepath.Join(dir, "tls")); err != nil {
			return err
		}
	}
	if got, err := pinOfFile(filepath.Join(dir, "tls", "cert.pem")); err == nil {
		pin = got
	} else if !o.dryRun {
		return err
	} else {
		p.notes = append(p.notes, "agent.coordinator_pin is known once the coordinator's certificate is made")
	}
	k.set("https://127.0.0.1:"+port, "agent", "coordinator")
	k.set(pin, "agent", "coordinator_pin")
	return k.err
}
