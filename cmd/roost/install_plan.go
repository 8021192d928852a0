package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	osuser "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/install"
	"github.com/roost-ci/roost/internal/runnerconf"
	"github.com/roost-ci/roost/packaging"
)

// installPlan is everything that an installation puts in place.
type installPlan struct {
	wish   wish
	found  *runnerconf.Found
	layout runnerconf.Layout
	files  []install.File
	// secret are paths that are never shown.
	secret map[string]bool
	// runnerUnits are services of gitlab-runner; agentUnits are ours, in the order of start.
	runnerUnits, agentUnits []string
	// verify is where the runner's token is asked for, with which token.
	verifyURL, verifyToken string
	notes                  []string
	home                   string // the jobs' user's, where the runner worked
	kept                   string // lines of the runner's own unit
	keptSecret             bool   // they were not for everybody to read
}

// plan works out what an installation puts in place. old is the journal of the one before.
func (o *installOptions) plan(old *install.Journal, line *joinLine) (*installPlan, error) {
	p := &installPlan{wish: o.wish, secret: map[string]bool{}}
	real, err := filepath.EvalSymlinks(o.Config)
	if err != nil {
		return nil, usageError(fmt.Errorf("GitLab Runner's configuration: %w", err), "say where it is with --config")
	}
	p.wish.Config = real
	text, ok, err := old.Original(real)
	if err != nil || !ok {
		return nil, usageError(fmt.Errorf("%s: %w", real, errors.Join(err, os.ErrNotExist)), "")
	}
	f, err := runnerconf.Parse(text)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", real, err), "")
	}
	if p.found, err = f.Inspect(o.Runner); err != nil {
		var r *runnerconf.RefusedError
		if errors.As(err, &r) {
			return nil, usageError(fmt.Errorf("%s: %w", real, err), r.Cure)
		}
		return nil, usageError(fmt.Errorf("%s: %w", real, err), "")
	}
	if err := o.settle(p); err != nil {
		return nil, err
	}
	tokens, err := o.slotTokens(old, p.wish.Slots, p.found.Token)
	if err != nil {
		return nil, err
	}
	if err := o.roostFiles(p, tokens, line); err != nil {
		return nil, err
	}
	if err := o.unitFiles(p); err != nil {
		return nil, err
	}
	return p, o.runnerFiles(p, f, tokens)
}

// settle decides what flags left open.
func (o *installOptions) settle(p *installPlan) error {
	w := &p.wish
	if w.Slots == 0 {
		w.Slots = p.found.Slots
	}
	if w.Slots < 1 || w.Slots > 256 {
		return usageError(fmt.Errorf("%d slots: want 1 to 256", w.Slots), "")
	}
	if w.Pool == "" {
		w.Pool = "default"
	}
	if w.Port == 0 {
		w.Port = defaultPort
	}
	executor := p.found.Executor
	switch {
	case w.Executor != "" && w.Executor != runnerconf.Custom:
		return usageError(fmt.Errorf("--executor %s: the runner keeps the executor that it has; only custom can be asked for", w.Executor), "")
	case w.Executor == runnerconf.Custom:
		p.layout = runnerconf.Called
	case executor == runnerconf.Custom:
		return usageError(fmt.Errorf("the runner %q has a driver of its own (executor custom)", p.found.Name),
			"--executor custom puts roost in its place: jobs then run on this host, with bash")
	case executor == runnerconf.Docker:
		p.layout = runnerconf.Shared
	case w.PerSlotPaths || !o.systemd():
		p.layout = runnerconf.PerSlot
	default:
		p.layout = runnerconf.Apart
	}
	if p.layout == runnerconf.PerSlot && !w.PerSlotPaths {
		p.notes = append(p.notes, "this host has no systemd: one runner process serves all slots, and a job's path depends on its slot. "+
			"What a build tool remembers by absolute path does not help in another slot")
	}
	if p.layout == runnerconf.Shared && !p.found.HostNetwork && w.Address == "" {
		ip, err := dockerAddress()
		if err != nil {
			return usageError(err, "say this host's address as containers see it with --docker-address, such as 172.17.0.1")
		}
		w.Address = ip
	}
	if w.Address != "" && net.ParseIP(w.Address) == nil {
		return usageError(fmt.Errorf("--docker-address %q is no IP address", w.Address), "")
	}
	return o.settleRunner(p)
}

// settleRunner finds out how the runner is started here.
func (o *installOptions) settleRunner(p *installPlan) error {
	w, s := &p.wish, runnerService(o.units)
	defer func() { p.home, p.kept, p.keptSecret = homeOf(s, w.User), s.kept, s.secret }()
	if w.Program == "" {
		w.Program = s.program
	}
	if w.Program == "" {
		w.Program = "/usr/bin/gitlab-runner"
		if path, err := osexec.LookPath("gitlab-runner"); err == nil {
			w.Program = path
		}
	}
	if p.layout == runnerconf.Shared || w.User != "" {
		return nil
	}
	if w.User = s.user; w.User == "" && !s.known {
		if _, err := osuser.Lookup("gitlab-runner"); err == nil {
			w.User = "gitlab-runner"
		}
	}
	return nil
}

// homeOf is where the runner worked: as its service says, else its user's home.
func homeOf(s runnerUnit, user string) string {
	if s.workDir != "" {
		return s.workDir
	}
	if u, err := osuser.Lookup(user); err == nil {
		return u.HomeDir
	}
	return ""
}

// createdPrefix begins the tokens of runners that were created in GitLab, not registered.
const createdPrefix = "glrt-"

// dockerAddress is the address of docker's bridge.
func dockerAddress() (string, error) {
	i, err := net.InterfaceByName("docker0")
	if err != nil {
		return "", errors.New("containers can't reach this host's loopback, and there is no docker0 whose address they could use")
	}
	addrs, err := i.Addrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("docker0 has no address")
}

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

func (o *installOptions) path(name string) string { return filepath.Join(o.etc, name) }

func (p *installPlan) add(path, text string, mode os.FileMode) {
	p.files = append(p.files, install.File{Path: path, Text: []byte(text), Mode: mode})
}

func (p *installPlan) addSecret(path, text string) {
	p.add(path, text, 0o600)
	p.secret[path] = true
}

// roostFiles are the agent's configuration and secrets.
func (o *installOptions) roostFiles(p *installPlan, tokens []string, line *joinLine) error {
	p.addSecret(o.path("gitlab-runner.token"), p.found.Token+"\n")
	p.addSecret(o.path("slot.tokens"), "# The local tokens of this host's slots. They are worth nothing elsewhere.\n"+strings.Join(tokens, "\n")+"\n")
	path := o.path("config.toml")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		sections := []string{"agent", "store", "gitlab"}
		if p.wish.WithCoordinator {
			sections = append(sections, "coordinator")
		}
		example := strings.Replace(configs.Example(sections...), "Every key stands at its default; leave out what you don't change.",
			"Written by roost install gitlab. Edit it and then:\n# systemctl reload roost-agent. All keys: roost config reference", 1)
		text, err = []byte(example), nil
	}
	if err != nil {
		return err
	}
	f, err := runnerconf.Parse(text)
	if err != nil {
		return usageError(fmt.Errorf("%s: %w", path, err), "")
	}
	set := func(value any, section, key string) {
		if err == nil {
			f, err = f.Set(value, section, key)
		}
	}
	g := p.wish
	slots := filepath.Join(o.lib, "slots")
	set(filepath.Join(o.lib, "store"), "agent", "store_dir")
	set(g.Slots, "agent", "slots")
	if line != nil {
		p.addSecret(o.path("agent.token"), line.token+"\n")
		set(line.URL, "agent", "coordinator")
		set(line.Pin, "agent", "coordinator_pin")
		set(o.path("agent.token"), "agent", "token_file")
	} else if token, read := os.ReadFile(o.path("agent.token")); read == nil && !g.WithCoordinator {
		p.addSecret(o.path("agent.token"), string(token)) // joined before
	}
	url := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(p.found.URL, "/"), "/ci"), "/")
	set(url, "gitlab", "url")
	set(g.Pool, "gitlab", "pool")
	set([]string{o.path("gitlab-runner.token")}, "gitlab", "token_files")
	set(o.path("slot.tokens"), "gitlab", "slot_tokens_file")
	set(p.found.CAFile, "gitlab", "ca_file")
	set("127.0.0.1:"+strconv.Itoa(g.Port), "gitlab", "listen")
	docker := ""
	if g.Address != "" {
		docker = net.JoinHostPort(g.Address, strconv.Itoa(g.Port))
	}
	set(docker, "gitlab", "listen_docker")
	executor, builds := p.found.Executor, o.buildsDir(p)
	if p.layout == runnerconf.Called {
		executor = runnerconf.Custom
	}
	set(executor, "gitlab", "executor")
	if p.layout == runnerconf.PerSlot {
		builds = ""
	}
	set(builds, "gitlab", "builds_dir")
	set(slots, "gitlab", "slots_dir")
	set(o.socket, "gitlab", "socket")
	set(g.User, "gitlab", "run_as")
	if g.WithCoordinator {
		err = errors.Join(err, o.coordinatorKeys(p, set, url))
	}
	if err != nil {
		return usageError(fmt.Errorf("%s: %w", path, err), "")
	}
	if _, err := configs.Parse(f.String(), nil); err != nil {
		return usageError(fmt.Errorf("%s would be wrong: %w", path, err), "")
	}
	p.files = append(p.files, install.File{Path: path, Text: f.Bytes(), Mode: 0o644, Editable: true})
	return nil
}

// coordinatorKeys are those of a coordinator on this host.
func (o *installOptions) coordinatorKeys(p *installPlan, set func(value any, section, key string), url string) error {
	if p.wish.Listen == "" {
		p.wish.Listen = "0.0.0.0:7780"
	}
	_, port, err := net.SplitHostPort(p.wish.Listen)
	if err != nil {
		return fmt.Errorf("--coordinator-listen: %w", err)
	}
	dir := filepath.Join(o.lib, "coordinator")
	set(p.wish.Listen, "coordinator", "listen")
	set(dir, "coordinator", "state_dir")
	set([]string{url}, "coordinator", "gitlab_urls")
	set(p.found.CAFile, "coordinator", "gitlab_ca_file")
	set(filepath.Join(dir, "agent.token"), "agent", "token_file")
	if configs.Loopback(p.wish.Listen) == nil {
		set("http://"+p.wish.Listen, "agent", "coordinator")
		set("", "agent", "coordinator_pin")
		return nil
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
	set("https://127.0.0.1:"+port, "agent", "coordinator")
	set(pin, "agent", "coordinator_pin")
	return nil
}

// buildsDir is where jobs see their slot's directory.
func (o *installOptions) buildsDir(p *installPlan) string {
	if p.found.BuildsDir != "" && p.layout != runnerconf.Called {
		return filepath.Clean(p.found.BuildsDir)
	}
	return "/builds"
}

// runnerFiles are GitLab Runner's own.
func (o *installOptions) runnerFiles(p *installPlan, f *runnerconf.File, tokens []string) error {
	dir := filepath.Join(filepath.Dir(p.wish.Config), "roost")
	address := "http://127.0.0.1:" + strconv.Itoa(p.wish.Port)
	if p.wish.Address != "" {
		address = "http://" + net.JoinHostPort(p.wish.Address, strconv.Itoa(p.wish.Port))
	}
	self, err := roostProgram()
	if err != nil {
		return err
	}
	out, err := f.Make(p.found, runnerconf.Plan{
		Layout: p.layout, Address: address, Tokens: tokens, BuildsDir: o.buildsDir(p),
		SlotsDir: filepath.Join(o.lib, "slots"), Program: self, User: p.wish.User, Dir: dir,
		Args: customArgs(o.socket), Home: p.home,
	})
	if err != nil {
		return usageError(fmt.Errorf("%s: %w", p.wish.Config, err), "nothing was changed; write the entry in the usual way, as gitlab-runner register does, and try again")
	}
	p.notes = append(p.notes, slices.Concat(p.found.Notes, out.Notes)...)
	for i, text := range out.Slots {
		p.add(filepath.Join(dir, fmt.Sprintf("slot%d.toml", i+1)), string(text), 0o600)
		p.runnerUnits = append(p.runnerUnits, fmt.Sprintf("gitlab-runner-roost@%d.service", i+1))
	}
	// The runner's own file is the last to change and the first to come back.
	p.add(p.wish.Config, string(out.Main), 0o600)
	if p.layout != runnerconf.Called {
		p.verifyURL, p.verifyToken = address+"/slot1/api/v4/runners/verify", tokens[0]
	}
	return nil
}

// customArgs are what the custom executor's calls need besides.
func customArgs(socket string) []string {
	if socket == defaultSocket {
		return nil
	}
	return []string{"--socket", socket}
}

// roostProgram is this program, as services call it.
func roostProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(self)
}

// unitFiles are the services, but for those that a package has put in place.
func (o *installOptions) unitFiles(p *installPlan) error {
	self, err := roostProgram()
	if err != nil {
		return err
	}
	if !o.systemd() {
		return nil
	}
	ours := func(name, text string) {
		p.agentUnits = append(p.agentUnits, name)
		for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil && self == "/usr/bin/roost" && o.etc == "/etc/roost" {
				return
			}
		}
		text = strings.ReplaceAll(text, "/usr/bin/roost ", self+" ")
		p.add(filepath.Join(o.units, name), strings.ReplaceAll(text, "/etc/roost/", o.etc+"/"), 0o644)
	}
	if p.wish.WithCoordinator {
		ours("roost-coordinator.service", packaging.CoordinatorUnit)
	}
	ours("roost-agent.service", packaging.AgentUnit)
	if p.layout != runnerconf.Apart {
		return nil
	}
	args, mode := "", os.FileMode(0o644)
	if p.keptSecret {
		mode = 0o600
	}
	if p.home != "" {
		args += " --working-directory " + p.home
	}
	if p.wish.User != "" {
		args += " --user " + p.wish.User
	}
	p.add(filepath.Join(o.units, "gitlab-runner-roost.target"), packaging.RunnersTarget, 0o644)
	p.add(filepath.Join(o.units, "gitlab-runner-roost@.service"), strings.NewReplacer(
		"@SLOTS@", filepath.Join(o.lib, "slots"), "@BUILDS@", o.buildsDir(p), "@RUNNER@", p.wish.Program,
		"@CONFIGS@", filepath.Join(filepath.Dir(p.wish.Config), "roost"), "@ARGS@", args, "@KEPT@\n", p.kept,
	).Replace(packaging.RunnerUnit), mode)
	return nil
}
