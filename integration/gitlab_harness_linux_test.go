package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
	"github.com/roost-ci/roost/internal/testenv"
)

// lab is a GitLab, a coordinator, and hosts with an agent and a runner process for
// each slot. Every runner process has a mount namespace of its own, in which its
// slot's directory is builds: the same path in all of them.
type lab struct {
	*fleet
	gl     *gitlabtest.GitLab
	token  string
	builds string
	conf   string // the coordinator's
	hosts  map[string]*labHost
	// scale is the runners': it divides their waits.
	scale float64
	// edit changes a runner's entry before it starts.
	edit func(host string, slot int, e *runner.Entry)
	// extra is added to the agents' files.
	extra string
	// alone has a token for each host that is a pool of its own.
	alone map[string]string
	// via has the coordinator's address for hosts that reach it another way.
	via map[string]string
}

// labHost is what a lab knows of a host besides its agent.
type labHost struct {
	listen  string
	tokens  []string // of the slots' runners
	runners []*runner.Process
	conf    string
}

func newLab(t *testing.T, o gitlabtest.Options, hosts, slots int) *lab {
	t.Helper()
	testenv.Require(t, testenv.Root)
	l := newLabWithoutHosts(t, o)
	for i := range hosts {
		l.addHost(fmt.Sprintf("host-%c", 'a'+i), slots)
	}
	return l
}

func newLabWithoutHosts(t *testing.T, o gitlabtest.Options) *lab {
	t.Helper()
	gl := gitlabtest.New(t, o)
	l := &lab{
		fleet: &fleet{t: t, dir: stateDir(t), bin: roostBinary(t), agents: map[string]*proc{}},
		gl:    gl, token: gl.AddRunner(gitlabtest.RunnerDef{}).Token(), hosts: map[string]*labHost{}, scale: 30,
	}
	l.builds = filepath.Join(l.dir, "builds")
	require.NoError(t, os.Mkdir(l.builds, 0o755))
	l.conf = l.write("coordinator.toml", 0o600, fmt.Sprintf("[coordinator]\ngitlab_urls = [%q]\n", gl.URL()))
	l.startCoordinator(nil, "--config", l.conf)
	t.Cleanup(l.close)
	return l
}

// write writes a file of the lab's and returns its path.
func (l *lab) write(name string, mode os.FileMode, text string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	require.NoError(l.t, os.WriteFile(path, []byte(text), mode))
	return path
}

// addHost starts an agent and its runners.
func (l *lab) addHost(name string, slots int) *labHost {
	l.t.Helper()
	h := &labHost{listen: testenv.Addr(l.t)}
	for i := range slots {
		h.tokens = append(h.tokens, fmt.Sprintf("local-%s-%d-0123456789abcdef", name, i+1))
	}
	token, pool := l.token, "default"
	if own := l.alone[name]; own != "" {
		token, pool = own, name
	}
	url := l.url
	if via := l.via[name]; via != "" {
		url = via
	}
	h.conf = l.write(name+".toml", 0o600, fmt.Sprintf(`[agent]
name = %q
coordinator = %q
token_file = %q
store_dir = %q

[gitlab]
url = %q
pool = %q
token_files = [%q]
slot_tokens_file = %q
listen = %q
builds_dir = %q
slots_dir = %q
%s`, name, url, filepath.Join(l.dir, "coordinator", "agent.token"), filepath.Join(l.dir, name),
		l.gl.URL(), pool, l.write(name+".runner-token", 0o600, token+"\n"),
		l.write(name+".slot-tokens", 0o600, strings.Join(h.tokens, "\n")+"\n"),
		h.listen, l.builds, l.slots(name), l.extra))
	l.hosts[name] = h
	l.agents[name] = launch(l.t, l.bin, l.dir, name, nil, "agent", "--config", h.conf)
	l.agents[name].waitReady()
	for slot := 1; slot <= slots; slot++ {
		if realRunner != "" {
			l.startRealRunner(l.t, name, slot)
			continue
		}
		l.startRunner(name, slot)
	}
	return h
}

func (l *lab) slots(host string) string { return filepath.Join(l.dir, host+"-slots") }

func (l *lab) slot(host string, slot int) string {
	return filepath.Join(l.slots(host), fmt.Sprint(slot))
}

// startRunner starts the runner of a slot.
func (l *lab) startRunner(host string, slot int) *runner.Process {
	l.t.Helper()
	h := l.hosts[host]
	yes := true
	e := runner.Entry{
		Name: fmt.Sprintf("%s-%d", host, slot), URL: fmt.Sprintf("http://%s/slot%d", h.listen, slot), Token: h.tokens[slot-1],
		Executor: "shell", BuildsDir: l.builds, Limit: 1, CustomBuildDir: &yes,
		GracefulKill: 2 * time.Second, ForceKill: time.Second,
	}
	if l.edit != nil {
		l.edit(host, slot, &e)
	}
	var wrap []string
	if e.Executor == "shell" { // containers have a volume instead
		wrap = []string{
			"unshare", "--mount", "--propagation", "slave", "--", "sh", "-c",
			`mount --rbind "$0" "$1" && shift && exec "$@"`, l.slot(host, slot), l.builds,
		}
	}
	p := runner.Start(l.t, runner.Config{
		Entries: []runner.Entry{e}, Scale: l.scale, SystemID: "s_" + e.Name,
		LogFile: filepath.Join(l.dir, e.Name+".runner.log"),
	}, wrap...)
	h.runners = append(h.runners, p)
	return p
}

// close ends the runners before their agents, and shows what went wrong.
func (l *lab) close() {
	for _, h := range l.hosts {
		for _, r := range h.runners {
			r.Kill()
		}
	}
	l.gl.Down() // it may hold a request, which the coordinator never gives up
	l.stop()
	for name := range l.hosts {
		require.NoError(l.t, exec.Command("umount", l.slots(name)).Run(), "the mount of the slots of "+name)
	}
	if l.t.Failed() {
		l.t.Logf("coordinator:\n%s", tailFile(filepath.Join(l.dir, "coordinator.log"), 40))
		for name := range l.hosts {
			l.t.Logf("%s:\n%s", name, tailFile(filepath.Join(l.dir, name+".log"), 60))
		}
	}
	out, err := exec.Command("findmnt", "--raw", "--noheadings", "--output", "TARGET").Output()
	require.NoError(l.t, err)
	for m := range strings.Lines(string(out)) {
		if m = strings.TrimSpace(m); strings.HasPrefix(m, l.dir+"/") {
			l.t.Errorf("mount left behind: %s", m)
			exec.Command("umount", m).Run()
		}
	}
}

// hostOf says on which host a job ran, by the runner's name in its log.
func (l *lab) hostOf(j gitlabtest.Job) string {
	for name := range l.hosts {
		if strings.Contains(string(j.Trace), "  on "+name+"-") {
			return name
		}
	}
	return ""
}
