package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/gitlab/custom"
	"github.com/roost-ci/roost/snapshot"
)

// customRun is a job of the custom executor, as the runner drives it.
type customRun struct {
	t    testing.TB
	h    *house
	dir  string
	env  []string
	out  bytes.Buffer
	view string
}

// customHouse has views that are there.
func customHouse(t *testing.T) *house {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	return newHouse(t, func(h *house) {
		h.cfg.Executor, h.cfg.CustomMS, h.cfg.URL, h.cfg.Listen = ExecutorCustom, 300, "", nil
		h.cfg.Socket = filepath.Join(t.TempDir(), "s")
		view := filepath.Join(t.TempDir(), viewName)
		h.agent.attach = func(context.Context, snapshot.ID, func(string)) (*plugin.Workspace, error) {
			w := workspace()
			w.View = view
			return w, os.MkdirAll(view, 0o700)
		}
	})
}

func (h *house) custom(id string, more ...string) *customRun {
	x := &customRun{t: h.t, h: h, dir: h.t.TempDir()}
	x.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "BUILD_FAILURE_EXIT_CODE=1", "SYSTEM_FAILURE_EXIT_CODE=2",
		"JOB_RESPONSE_FILE=" + filepath.Join(x.dir, "job"), "BUILD_EXIT_CODE_FILE=" + filepath.Join(x.dir, "exit"),
		"CUSTOM_ENV_CI_JOB_ID=99", "CUSTOM_ENV_CI_PROJECT_DIR=/etc",
	}, more...)
	text := `{"id":` + id + `,"token":"` + jobToken + id + `","git_info":{"repo_url":"https://gitlab-ci-token:x@gl.example/group/app.git"}}`
	require.NoError(h.t, os.WriteFile(filepath.Join(x.dir, "job"), []byte(text), 0o600))
	return x
}

func (x *customRun) client() *custom.Client {
	return &custom.Client{Socket: x.h.cfg.Socket, Version: "1", Env: x.env, Stdout: &x.out, Stderr: &x.out}
}

func (x *customRun) config() map[string]any {
	x.t.Helper()
	x.out.Reset()
	c := x.client()
	var errs bytes.Buffer
	c.Stderr = &errs
	require.NoError(x.t, c.Config(x.t.Context()), errs.String())
	var conf map[string]any
	require.NoError(x.t, json.Unmarshal(x.out.Bytes(), &conf))
	x.view, _ = conf["builds_dir"].(string)
	x.out.Reset()
	x.out.Write(errs.Bytes())
	return conf
}

func (x *customRun) stage(stage, script string) error {
	file := filepath.Join(x.dir, stage)
	require.NoError(x.t, os.WriteFile(file, []byte(script), 0o600))
	return x.client().Run(x.t.Context(), file, stage)
}

func (x *customRun) exit(err error) int {
	var e *custom.ExitError
	if err == nil {
		return 0
	}
	require.True(x.t, errors.As(err, &e), err)
	return e.Code
}

// TestCustom: the whole way of a job that succeeds, over a restart of the plugin.
func TestCustom(t *testing.T) {
	h := customHouse(t)
	h.agent.queue <- &plugin.Grant{Attempt: attemptOf("7")}
	x := h.custom("7")
	conf := x.config()
	require.NotEmpty(t, x.view)
	env, _ := conf["job_env"].(map[string]any)
	require.Equal(t, "FULL", env["ROOST_WORKSPACE_STATE"])
	require.Equal(t, "3", env["GIT_CONFIG_COUNT"])
	require.Contains(t, string(h.agent.offers[0].Job), `"id":7`)
	require.NoError(t, x.client().Prepare(t.Context()))
	require.Equal(t, "roost: FULL\n", x.out.String())
	h.again(attemptOf("7"))
	project := filepath.Join(x.view, "group/app")
	require.NoError(t, x.stage("get_sources", `mkdir -p `+project+` `+project+`.tmp && echo token > `+project+`.tmp/.gitlab-runner.ext.conf`))
	require.NoError(t, x.stage("step_script", `echo built > `+project+`/out`))
	require.Equal(t, 1, x.exit(x.stage("archive_cache", "exit 3")))
	h.agent.seal = func(context.Context, plugin.SealRequest) (*plugin.Sealed, error) {
		require.NoDirExists(t, project+".tmp", "sealed with the job's token")
		require.FileExists(t, project+"/out")
		return &plugin.Sealed{Lines: []string{"roost: kept"}}, nil
	}
	x.out.Reset()
	require.NoError(t, x.client().Cleanup(t.Context()))
	require.Equal(t, "roost: kept\n", x.out.String())
	require.Equal(t, attemptOf("7"), h.agent.seals[0].Attempt)
	require.NoError(t, x.client().Cleanup(t.Context()), "twice is nothing")
	require.Equal(t, 1, h.agent.sealed())
	require.Empty(t, h.agent.outcomes())
}

// TestCustomFails: a job whose stages failed, or that did not come to its script, keeps nothing.
func TestCustomFails(t *testing.T) {
	for name, stages := range map[string][][2]string{
		"script":   {{"get_sources", "true"}, {"step_script", "exit 7"}},
		"sources":  {{"get_sources", "false"}},
		"upload":   {{"step_script", "true"}, {"upload_artifacts_on_success", "false"}},
		"no stage": {},
	} {
		t.Run(name, func(t *testing.T) {
			h := customHouse(t)
			h.agent.queue <- &plugin.Grant{Attempt: attemptOf("7")}
			x := h.custom("7")
			x.config()
			for _, s := range stages {
				code := x.exit(x.stage(s[0], s[1]))
				if s[1] == "exit 7" {
					require.Equal(t, 1, code)
					b, err := os.ReadFile(filepath.Join(x.dir, "exit"))
					require.NoError(t, err)
					require.Equal(t, "7", string(b))
				}
			}
			require.NoError(t, x.client().Cleanup(t.Context()))
			require.Equal(t, []plugin.Outcome{plugin.OutcomeFailed}, h.agent.outcomes())
			require.Zero(t, h.agent.sealed())
		})
	}
}

// TestCustomWithout: a job without a workspace runs as on any runner, unless it needs one.
func TestCustomWithout(t *testing.T) {
	h := customHouse(t) // nobody grants anything
	x := h.custom("7")
	require.NotContains(t, x.config(), "builds_dir")
	require.Contains(t, x.out.String(), "NO WORKSPACE")
	require.NoError(t, x.stage("step_script", "true"))
	require.NoError(t, x.client().Cleanup(t.Context()))

	needs := h.custom("8", "CUSTOM_ENV_ROOST_WORKSPACE=required")
	require.Equal(t, 2, needs.exit(needs.client().Config(t.Context())))

	h.agent.attach = func(context.Context, snapshot.ID, func(string)) (*plugin.Workspace, error) {
		return nil, &plugin.Error{Text: "no room"}
	}
	h.agent.queue <- &plugin.Grant{Attempt: attemptOf("9")}
	refused := h.custom("9")
	require.Equal(t, 2, refused.exit(refused.client().Config(t.Context())))
	require.Contains(t, refused.out.String(), "no room")
	require.Equal(t, []plugin.Outcome{plugin.OutcomeSystem}, h.agent.outcomes())

	h.stop() // nor does it need the plugin
	require.NotContains(t, x.config(), "builds_dir")
	require.NoError(t, x.client().Cleanup(t.Context()))
	require.Equal(t, 2, needs.exit(needs.client().Config(t.Context())))
}

// TestCustomRefused: a job that GitLab does not confirm starts at once without a workspace; one of
// which GitLab says nothing now is asked for until its time is over. Both say why.
func TestCustomRefused(t *testing.T) {
	for why, times := range map[string]int{"GitLab does not confirm the job": 1, "GitLab does not say": 2} {
		h := customHouse(t)
		h.agent.refuse = fmt.Errorf("%s: %w", why, plugin.ErrInvalid)
		if times > 1 {
			h.agent.refuse = fmt.Errorf("%s: %w", why, plugin.ErrUnavailable)
		}
		x := h.custom("7")
		require.NotContains(t, x.config(), "builds_dir")
		require.Contains(t, x.out.String(), "NO WORKSPACE")
		require.Contains(t, x.out.String(), why)
		if times == 1 {
			require.Len(t, h.agent.offers, 1)
		} else {
			require.GreaterOrEqual(t, len(h.agent.offers), times)
		}
	}
}

// TestCustomStrangers: who is not root or the agent's user, or has another job's id without its
// token, changes nothing. A job could name any project as its own.
func TestCustomStrangers(t *testing.T) {
	h := customHouse(t)
	h.agent.queue <- &plugin.Grant{Attempt: attemptOf("7")}
	x := h.custom("7")
	x.config()
	thief := h.custom("7")
	require.NoError(t, os.WriteFile(filepath.Join(thief.dir, "job"), []byte(`{"id":7,"token":"mine","git_info":{"repo_url":"https://h/a/b.git"}}`), 0o600))
	require.NoError(t, thief.client().Cleanup(t.Context()))
	require.Zero(t, h.agent.sealed())
	require.Empty(t, h.agent.outcomes())

	require.False(t, allowed(t.Context()))
	require.False(t, allowed(context.WithValue(t.Context(), peerKey{}, uint32(os.Geteuid()+12345))))
	require.True(t, allowed(context.WithValue(t.Context(), peerKey{}, uint32(os.Geteuid()))))
	require.True(t, allowed(context.WithValue(t.Context(), peerKey{}, uint32(0))))
}

// TestCustomRestart: what is held without a record is no job to be given to somebody else.
func TestCustomRestart(t *testing.T) {
	h := customHouse(t)
	h.again(attemptOf("7"))
	eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never ended")
	require.Equal(t, plugin.OutcomeSystem, h.agent.outcomes()[0])
}

// TestScrubStaysInside: a link that a job put in the place of its view leads nowhere.
func TestScrubStaysInside(t *testing.T) {
	payload := []byte(`{"git_info":{"repo_url":"https://h/group/app.git"}}`)
	out := t.TempDir()
	theirs := filepath.Join(out, "group", "app.tmp", "file")
	require.NoError(t, os.MkdirAll(filepath.Dir(theirs), 0o755))
	require.NoError(t, os.WriteFile(theirs, nil, 0o600))
	link := filepath.Join(t.TempDir(), "view")
	require.NoError(t, os.Symlink(out, link))
	require.Error(t, custom.Scrub(link, payload))
	require.FileExists(t, theirs)
	require.NoError(t, custom.Scrub(out, payload))
	require.NoFileExists(t, theirs)
	require.NoError(t, custom.Scrub("", payload))
}

func TestProjectPath(t *testing.T) {
	for in, want := range map[string]string{
		"https://u:p@h/group/app.git": "group/app", "http://h:80/root/g/s/app.git": "root/g/s/app", "https://h/a//b.git": "a/b",
		"https://h/../x.git": "x", "https://h/": "", "x": "", "https://h/a..b.git": "", "": "", "https://h/.git": "",
	} {
		got, err := custom.ProjectPath([]byte(`{"git_info":{"repo_url":"` + in + `"}}`))
		require.Equal(t, want, got, in)
		require.Equal(t, want == "", err != nil, in)
	}
}
