package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/configs"
)

// runnerHost is a host with a GitLab runner that roost is installed on.
type runnerHost struct {
	t      testing.TB
	dir    string
	config string
	log    string // what systemctl was asked
}

func newRunnerHost(t testing.TB, text string, systemd bool) *runnerHost {
	h := &runnerHost{t: t, dir: t.TempDir()}
	h.config = filepath.Join(h.dir, "gitlab-runner", "config.toml")
	h.log = filepath.Join(h.dir, "systemctl.log")
	require.NoError(t, os.MkdirAll(filepath.Join(h.dir, "units"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Dir(h.config), 0o755))
	require.NoError(t, os.WriteFile(h.config, []byte(text), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "units", "gitlab-runner.service"), []byte(
		`[Service]
ExecStart=/usr/bin/gitlab-runner "run" "--config" "/etc/gitlab-runner/config.toml" "--working-directory" "/home/ci" "--service" "gitlab-runner" "--user" "ci"
`), 0o644))
	if systemd {
		fake := filepath.Join(h.dir, "systemctl")
		require.NoError(t, os.WriteFile(fake, []byte("#!/bin/sh\necho \"$*\" >> "+h.log+"\n"), 0o755))
		t.Setenv("ROOST_TEST_SYSTEMCTL", fake)
	} else {
		t.Setenv("ROOST_TEST_SYSTEMCTL", "")
	}
	return h
}

// roost runs a command with the host's places.
func (h *runnerHost) roost(args ...string) (code int, out, errs string) {
	h.t.Helper()
	var o, e bytes.Buffer
	args = append(args, "--etc", filepath.Join(h.dir, "etc"), "--lib", filepath.Join(h.dir, "lib"), "--systemd-units", filepath.Join(h.dir, "units"))
	code = realMain(args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

func (h *runnerHost) must(args ...string) string {
	h.t.Helper()
	code, out, errs := h.roost(args...)
	require.Zero(h.t, code, "%s%s", out, errs)
	return out
}

// tree is all files but for state that stays, with modes and texts.
func (h *runnerHost) tree() map[string]string {
	h.t.Helper()
	out := map[string]string{}
	require.NoError(h.t, filepath.Walk(h.dir, func(path string, fi os.FileInfo, err error) error {
		rel := strings.TrimPrefix(path, h.dir)
		if err != nil || fi.IsDir() || strings.HasPrefix(rel, "/lib/coordinator") || strings.HasPrefix(rel, "/systemctl") {
			return err
		}
		b, err := os.ReadFile(path)
		out[rel] = fmt.Sprintf("%v %s", fi.Mode(), b)
		return err
	}))
	return out
}

func (h *runnerHost) calls() string {
	b, err := os.ReadFile(h.log)
	if os.IsNotExist(err) {
		return ""
	}
	require.NoError(h.t, err)
	return string(b)
}

const testJoin = testJoinLine

// Every shape of file that the editor knows is installed on, twice, and comes back byte
// for byte. What is written is a valid configuration.
func TestInstallAndUninstallGitLab(t *testing.T) {
	ins, err := filepath.Glob("../../internal/runnerconf/testdata/*.in.toml")
	require.NoError(t, err)
	require.NotEmpty(t, ins)
	for _, in := range ins {
		for _, systemd := range []bool{false, true} {
			t.Run(fmt.Sprint(filepath.Base(in), " systemd ", systemd), func(t *testing.T) {
				text, err := os.ReadFile(in)
				require.NoError(t, err)
				h := newRunnerHost(t, string(text), systemd)
				before := h.tree()
				args := []string{"install", "gitlab", "--config", h.config, "--join", testJoin, "--docker-address", "172.17.0.1", "--no-start"}
				if strings.Contains(in, "several") {
					args = append(args, "--runner", "big")
				}
				if strings.Contains(in, "custom") {
					code, _, errs := h.roost(args...)
					require.Equal(t, exitUsage, code)
					require.Contains(t, errs, "driver of its own")
					args = append(args, "--executor", "custom")
				}
				shown := h.must(append(args, "--dry-run")...)
				require.Equal(t, before, h.tree(), "--dry-run did something")
				require.NotContains(t, shown, "glrt-", "a token is shown")
				h.must(args...)
				after := h.tree()
				require.NotEqual(t, before, after)

				c, err := configs.Load(filepath.Join(h.dir, "etc", "config.toml"), nil)
				require.NoError(t, err)
				require.NoError(t, configs.CheckFiles(c, false))
				require.Contains(t, c.GitLab.URL, "https://gitlab.example.org")
				require.Equal(t, "https://ci-1.example.org:7780", c.Agent.Coordinator)
				tokens, err := secretLines(c.GitLab.SlotTokensFile)
				require.NoError(t, err)
				require.Len(t, tokens, c.Agent.Slots)

				require.Contains(t, h.must("install", "gitlab", "--no-start"), "nothing to change")
				require.Equal(t, after, h.tree(), "the second time something changed")
				h.must("uninstall", "gitlab")
				require.Equal(t, before, h.tree())
				require.Contains(t, h.must("uninstall", "gitlab"), "nothing to change")
			})
		}
	}
}

// FuzzInstall: a file is refused and nothing changes, or it is installed on, a second time
// without a change, and comes back byte for byte.
func FuzzInstall(f *testing.F) {
	ins, err := filepath.Glob("../../internal/runnerconf/testdata/*.in.toml")
	require.NoError(f, err)
	for _, in := range ins {
		text, err := os.ReadFile(in)
		require.NoError(f, err)
		f.Add(text, true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text []byte, systemd bool) {
		if len(text) > 4096 {
			return
		}
		h := newRunnerHost(t, string(text), systemd)
		before := h.tree()
		code, _, errs := h.roost("install", "gitlab", "--config", h.config, "--join", testJoin, "--docker-address", "172.17.0.1", "--no-start", "--slots", "2")
		if code != 0 {
			require.NotEmpty(t, errs)
			require.Equal(t, before, h.tree())
			return
		}
		after := h.tree()
		require.Contains(t, h.must("install", "gitlab", "--no-start"), "nothing to change")
		require.Equal(t, after, h.tree())
		h.must("uninstall", "gitlab")
		require.Equal(t, before, h.tree())
	})
}

// With systemd a shell runner becomes a process for each slot.
func TestInstallShellSlots(t *testing.T) {
	text, err := os.ReadFile("../../internal/runnerconf/testdata/shell.in.toml")
	require.NoError(t, err)
	h := newRunnerHost(t, string(text), true)
	agent := newFakeAgent(t, http.StatusOK)
	out := h.must("install", "gitlab", "--config", h.config, "--with-coordinator", "--port", agent.port, "--slots", "3", "--json")
	var r outcome
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	require.True(t, r.Changed)
	require.Equal(t, "yes", r.Verified)
	require.Equal(t, []string{
		"roost-coordinator.service", "roost-agent.service",
		"gitlab-runner-roost@1.service", "gitlab-runner-roost@2.service", "gitlab-runner-roost@3.service",
	}, r.Started)
	unit, err := os.ReadFile(filepath.Join(h.dir, "units", "gitlab-runner-roost@.service"))
	require.NoError(t, err)
	for _, want := range []string{
		"BindPaths=" + filepath.Join(h.dir, "lib", "slots") + "/%i:/builds\n", "MountFlags=slave\n", "--working-directory /home/ci --user ci\n",
		"ExecStart=/usr/bin/gitlab-runner run --config " + filepath.Join(h.dir, "gitlab-runner", "roost") + "/slot%i.toml",
	} {
		require.Contains(t, string(unit), want)
	}
	require.NotContains(t, string(unit), "@SLOTS@")
	c, err := configs.Load(filepath.Join(h.dir, "etc", "config.toml"), nil)
	require.NoError(t, err)
	require.Equal(t, "ci", c.GitLab.RunAs)
	require.Equal(t, "/builds", c.GitLab.BuildsDir)
	require.Equal(t, []string{"https://gitlab.example.org"}, c.Coordinator.GitLabURLs)
	require.Len(t, c.Agent.Pin, 64)
	require.NotContains(t, c.Agent.Pin, "00000000")

	h.must("install", "gitlab", "--slots", "1")
	require.NoFileExists(t, filepath.Join(h.dir, "gitlab-runner", "roost", "slot3.toml"))
	require.Contains(t, h.calls(), "disable --now gitlab-runner-roost@3.service")
	require.NotContains(t, h.calls(), "disable --now gitlab-runner-roost@1.service")
	h.must("uninstall", "gitlab")
	calls := h.calls()
	require.Less(t, strings.LastIndex(calls, "disable --now gitlab-runner-roost@1"), strings.LastIndex(calls, "disable --now roost-agent"))
	require.True(t, strings.HasSuffix(calls, "daemon-reload\n"), calls)
	got, err := os.ReadFile(h.config)
	require.NoError(t, err)
	require.Equal(t, string(text), string(got))
}

// fakeAgent answers verify.
type fakeAgent struct {
	port  string
	token string
}

func newFakeAgent(t *testing.T, status int) *fakeAgent {
	a := &fakeAgent{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/slot1/api/v4/runners/verify" || !strings.Contains(string(body), r.Header.Get("Runner-Token")) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		a.token = r.Header.Get("Runner-Token")
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	_, a.port, _ = net.SplitHostPort(s.Listener.Addr().String())
	return a
}

// A runner that GitLab does not know any more is given back at once.
func TestInstallIsTakenBackIfTheRunnerDoesNotVerify(t *testing.T) {
	text, err := os.ReadFile("../../internal/runnerconf/testdata/no-newline.in.toml")
	require.NoError(t, err)
	h := newRunnerHost(t, string(text), true)
	before := h.tree()
	agent := newFakeAgent(t, http.StatusForbidden)
	code, _, errs := h.roost("install", "gitlab", "--config", h.config, "--join", testJoin, "--port", agent.port)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "everything was put back")
	require.NotEmpty(t, agent.token)
	require.Equal(t, before, h.tree())
	require.Contains(t, h.calls(), "disable --now roost-agent.service")
}

func TestUninstallAfterAChange(t *testing.T) {
	text, err := os.ReadFile("../../internal/runnerconf/testdata/registered.in.toml")
	require.NoError(t, err)
	h := newRunnerHost(t, string(text), false)
	h.must("install", "gitlab", "--config", h.config, "--join", testJoin, "--docker-address", "172.17.0.1", "--no-start")
	require.NoError(t, os.WriteFile(h.config, []byte("concurrent = 9\n"), 0o600))
	code, _, errs := h.roost("install", "gitlab")
	require.Equal(t, exitRefused, code)
	require.Contains(t, errs, "changed since the installation: "+h.config)
	code, _, errs = h.roost("uninstall", "gitlab")
	require.Equal(t, exitRefused, code)
	require.Contains(t, errs, "--force")
	require.Contains(t, errs, "--keep")
	require.Contains(t, errs, "diff "+h.config+".before-roost "+h.config)
	require.Contains(t, h.must("uninstall", "gitlab", "--force"), h.config+".changed-after-roost")
	got, err := os.ReadFile(h.config)
	require.NoError(t, err)
	require.Equal(t, string(text), string(got))
}

func TestInstallRefusals(t *testing.T) {
	h := newRunnerHost(t, "[[runners]]\nname=\"a\"\nurl=\"https://x\"\ntoken=\"t\"\nexecutor=\"kubernetes\"\n", false)
	for want, args := range map[string][]string{
		"which coordinator":   {"--config", h.config},
		"not supported":       {"--config", h.config, "--with-coordinator"},
		"say where it is":     {"--config", h.config + "x", "--with-coordinator"},
		"not a line of":       {"--config", h.config, "--join", "nonsense"},
		"its own coordinator": {"--config", h.config, "--join", testJoin, "--with-coordinator"},
	} {
		before := h.tree()
		code, _, errs := h.roost(append([]string{"install", "gitlab"}, args...)...)
		require.Equal(t, exitUsage, code, want)
		require.Contains(t, errs, want)
		require.Equal(t, before, h.tree())
	}
}

func TestHideSecrets(t *testing.T) {
	for line, want := range map[string]string{
		"+  token = \"glrt-x\"\n":                          "+  token = \"***\"\n",
		"-token = 'x'\n":                                   "-token = \"***\"\n",
		" \t\"SecretKey\" = \"x\"\n":                       " \t\"SecretKey\" = \"***\"\n",
		"+environment = [\"A=b c\", 'D=e']\n":              "+environment = [\"A=***\", 'D=***']\n",
		"+token_file = \"/etc/roost/agent.token\"\n":       "+token_file = \"/etc/roost/agent.token\"\n",
		"+  image = \"debian\"\n":                          "+  image = \"debian\"\n",
		"+token_expires_at = 0001-01-01T00:00:00Z\n":       "+token_expires_at = 0001-01-01T00:00:00Z\n",
		"+slot_tokens_file = \"/etc/roost/slot.tokens\"\n": "+slot_tokens_file = \"/etc/roost/slot.tokens\"\n",
		"+  [runners.cache.s3]\n+    AccessKey = \"k\"\n":  "+  [runners.cache.s3]\n+    AccessKey = \"***\"\n",
		"+Environment=HTTP_PROXY=http://u:p@h\n":           "+Environment=***\n",
		"+  \"DOCKER_AUTH_CONFIG={}\",\n":                  "+  \"DOCKER_AUTH_CONFIG=***\",\n",
	} {
		require.Equal(t, want, hideSecrets(line))
	}
}

// Jobs that run in containers don't come to run on the host, as root, by the way.
func TestCustomInsteadOfDockerNeedsAUser(t *testing.T) {
	text, err := os.ReadFile("../../internal/runnerconf/testdata/registered.in.toml")
	require.NoError(t, err)
	h := newRunnerHost(t, string(text), false)
	args := []string{"install", "gitlab", "--config", h.config, "--with-coordinator", "--no-start", "--executor", "custom"}
	before := h.tree()
	code, _, errs := h.roost(args...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--user")
	require.Equal(t, before, h.tree())
	h.must(append(args, "--user", "nobody")...)
	require.Contains(t, h.must(args...), "nothing to change")
}

// --dry-run shows no secret, however it is written.
func TestDryRunShowsNoSecret(t *testing.T) {
	h := newRunnerHost(t, `concurrent = 2
[[runners]]
  name = "one"
  url = "https://gitlab.example.org"
  token = """glrt-hidden"""
  executor = "shell"
  environment = ["DOCKER_AUTH_CONFIG={\"auths\":{\"r\":{\"auth\":\"hidden\"}}}", """KEY=
hidden"""]
  cache = { Type = "s3", s3 = { SecretKey = "hidden" } }
`, false)
	args := []string{"install", "gitlab", "--config", h.config, "--with-coordinator", "--dry-run"}
	shown := h.must(args...)
	require.NotContains(t, shown, "hidden")
	require.Contains(t, shown, "DOCKER_AUTH_CONFIG=***")
	require.Contains(t, h.must(append(args, "--show-secrets")...), `auth\":\"hidden`)
}

// What people set for the runner's own service, the slots' services have, too: jobs of the
// shell executor inherit it.
func TestInstallKeepsTheServicesEnvironment(t *testing.T) {
	text, err := os.ReadFile("../../internal/runnerconf/testdata/shell.in.toml")
	require.NoError(t, err)
	h := newRunnerHost(t, string(text), true)
	agent := newFakeAgent(t, http.StatusOK)
	dir := filepath.Join(h.dir, "units", "gitlab-runner.service.d")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "20-last.conf"), []byte("[Service]\nEnvironment=LAST=1\nLimitNOFILE=4096\nMemoryMax=1G\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "10-proxy.conf"), []byte(
		"[Unit]\nEnvironment=NOT=this\n[Service]\nEnvironment=\"HTTP_PROXY=http://u:secret@h\" \\\n  NO_PROXY=x\nEnvironmentFile=-/etc/sysconfig/gitlab-runner\n"+
			"ExecStart=\nExecStart=-/opt/gitlab-runner run --user other --working-directory /srv/ci\n"), 0o644))
	args := []string{"install", "gitlab", "--config", h.config, "--with-coordinator", "--port", agent.port}
	require.NotContains(t, h.must(append(args, "--dry-run")...), "secret")
	h.must(args...)
	path := filepath.Join(h.dir, "units", "gitlab-runner-roost@.service")
	unit, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(unit), "--working-directory /srv/ci --user other\nEnvironment=\"HTTP_PROXY=http://u:secret@h\"    NO_PROXY=x\n"+
		"EnvironmentFile=-/etc/sysconfig/gitlab-runner\nEnvironment=LAST=1\nLimitNOFILE=4096\nExecReload=")
	require.Contains(t, string(unit), "ExecStart=/opt/gitlab-runner run")
	require.NotContains(t, string(unit), "NOT=this")
	require.NotContains(t, string(unit), "MemoryMax")
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode(), "one of the files was secret")
	require.Contains(t, h.must("install", "gitlab"), "nothing to change")
}
