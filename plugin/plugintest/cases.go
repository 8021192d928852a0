package plugintest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
)

type job struct {
	plugin.Job
	f Fixture
}

func (j *job) run(t *testing.T, script ...string) (plugin.Result, string) {
	t.Helper()
	j.Script = script
	var log Log
	res, err := j.f.Adapter.Run(t.Context(), j.Job, &log)
	require.NoError(t, err)
	return res, log.String()
}

// plain drops what is not the job's own output.
func plain(log string) string {
	var keep []string
	for _, l := range strings.Split(log, "\n") {
		if !strings.HasPrefix(l, "\x1b[") {
			keep = append(keep, l)
		}
	}
	return strings.Join(keep, "\n")
}

func exitCodes(t *testing.T, j *job) {
	for _, tc := range []struct {
		script string
		status plugin.Status
		code   int
	}{
		{"true", plugin.StatusSuccess, 0},
		{"exit 0", plugin.StatusSuccess, 0},
		{"false", plugin.StatusFailed, 1},
		{"exit 42", plugin.StatusFailed, 42},
		{"no-such-command-anywhere", plugin.StatusFailed, 127},
		{"false | true", plugin.StatusFailed, 1},
		{"kill -9 $$", plugin.StatusFailed, 137},
		{"kill -TERM $$", plugin.StatusFailed, 143},
		{"if true; then", plugin.StatusFailed, -1}, // a syntax error; which code is bash's business
	} {
		j.Attempt = NewID(t)
		res, log := j.run(t, tc.script, "touch after-"+strconv.Itoa(tc.code))
		require.Equal(t, tc.status, res.Status, "%s: %s", tc.script, log)
		if tc.code >= 0 {
			require.Equal(t, tc.code, res.ExitCode, tc.script)
		} else {
			require.NotZero(t, res.ExitCode)
		}
		require.Equal(t, res.Status == plugin.StatusSuccess, res.Reason == "", res.Reason)
		_, err := os.Stat(filepath.Join(j.View, "after-"+strconv.Itoa(tc.code)))
		if tc.status == plugin.StatusFailed {
			require.ErrorIs(t, err, os.ErrNotExist, "%s: the script went on", tc.script)
		}
	}
}

func outputInOrder(t *testing.T, j *job) {
	var want strings.Builder
	for i := 1; i <= 2000; i++ {
		fmt.Fprintf(&want, "%d\n", i)
	}
	res, log := j.run(t, "for i in $(seq 1 2 2000); do echo $i; echo $((i+1)) >&2; done")
	require.Equal(t, plugin.StatusSuccess, res.Status)
	require.Equal(t, want.String(), plain(log))
}

func echo(t *testing.T, j *job) {
	_, log := j.run(t, "true 'a \"quoted\" $word' \\\\", "cat <<'X'\nline\nX")
	require.Contains(t, log, "$ true 'a \"quoted\" $word' \\\\\x1b[0;m\n")
	require.Contains(t, log, "$ cat <<'X' # collapsed multi-line command")
	require.Equal(t, "line\n", plain(log))
}

func oneShell(t *testing.T, j *job) {
	j.Before = []string{"cd /", "v=kept"}
	res, log := j.run(t, "echo $v in $PWD")
	require.Equal(t, plugin.StatusSuccess, res.Status)
	require.Equal(t, "kept in /\n", plain(log))
	j.Attempt, j.Before = NewID(t), []string{"exit 3"}
	res, log = j.run(t, "echo not reached")
	require.Equal(t, 3, res.ExitCode)
	require.NotContains(t, plain(log), "not reached")
}

func stdinIsEmpty(t *testing.T, j *job) {
	res, log := j.run(t, "cat", "while read -r line; do echo ate $line; done", "echo end", "ls -l /dev/fd/ | grep -c memfd || true")
	require.Equal(t, plugin.StatusSuccess, res.Status)
	require.Equal(t, "end\n0\n", plain(log))
}

func oddScripts(t *testing.T, j *job) {
	long := strings.Repeat("x", 300<<10)
	res, log := j.run(t, "v="+long, "echo ${#v}", "printf '%s\\n' caf\xe9 | od -An -tx1 | tr -d ' '", "echo 'tab\there'", "")
	require.Equal(t, plugin.StatusSuccess, res.Status, log[max(0, len(log)-500):])
	require.Contains(t, plain(log), strconv.Itoa(len(long)))
	require.Contains(t, plain(log), "636166e90a")
	require.Contains(t, plain(log), "tab\there")
}

func environment(t *testing.T, j *job) {
	t.Setenv("ROOST_TEST_LEAK", "agent")
	j.Env = map[string]string{"MULTI": "a\nb", "EMPTY": "", "QUOTE": `"'$x`, "BAD=NAME": "no", "PATH": "/odd:/usr/bin:/bin"}
	res, log := j.run(t, `printf '%s|%s|%s|%s' "$MULTI" "$EMPTY" "$QUOTE" "$PATH"; echo`, "env | cut -d= -f1 | sort | tr '\\n' ' '")
	require.Equal(t, plugin.StatusSuccess, res.Status)
	out := plain(log)
	require.Contains(t, out, "a\nb||\"'$x|/odd:/usr/bin:/bin\n")
	require.NotContains(t, out, "ROOST_TEST_LEAK")
	require.NotContains(t, out, "BAD")
	for _, v := range []string{"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "USER"} {
		require.Contains(t, out, v+" ")
	}
}

func afterScript(t *testing.T, j *job) {
	for _, tc := range []struct{ script, status string }{{"v=1; true", "success"}, {"v=1; exit 7", "failed"}} {
		j.Attempt, j.After = NewID(t), []string{"echo after $CI_JOB_STATUS [$v]", "exit 9"}
		res, log := j.run(t, tc.script)
		require.Equal(t, tc.status, string(res.Status), "after_script must not change it")
		require.Contains(t, plain(log), "after "+tc.status+" []\n")
	}
}

func afterLimit(t *testing.T, j *job) {
	j.After, j.AfterTimeout = []string{"sleep 600"}, 200*time.Millisecond
	begin := time.Now()
	res, _ := j.run(t, "true")
	require.Equal(t, plugin.StatusSuccess, res.Status)
	require.Less(t, time.Since(begin), 4*time.Minute)
}

func filesLand(t *testing.T, j *job) {
	res, log := j.run(t, "pwd", "mkdir -p a/b", "echo hi > a/b/c")
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	require.Equal(t, j.Path+"\n", plain(log))
	b, err := os.ReadFile(filepath.Join(j.View, "a/b/c"))
	require.NoError(t, err)
	require.Equal(t, "hi\n", string(b))
}

func homeAndTmp(t *testing.T, j *job) {
	script := []string{
		`test "$(ls -A $HOME)" = ""`, `test "$(ls -A $TMPDIR)" = ""`,
		"echo x > $HOME/f", "mkdir -p $HOME/ro/sub && chmod 555 $HOME/ro/sub $HOME/ro", "echo x > $(mktemp)",
		`case $HOME in "$PWD"*) exit 5;; esac`,
	}
	for range 2 { // the second finds nothing of the first
		j.Attempt = NewID(t)
		res, log := j.run(t, script...)
		require.Equal(t, plugin.StatusSuccess, res.Status, log)
	}
}

type brokenLog struct{}

func (brokenLog) Write([]byte) (int, error) { return 0, os.ErrClosed }

func failingLog(t *testing.T, j *job) {
	j.Script = []string{"seq 1 100000", "touch end"}
	res, err := j.f.Adapter.Run(t.Context(), j.Job, brokenLog{})
	require.NoError(t, err)
	require.Equal(t, plugin.StatusSuccess, res.Status)
	require.FileExists(t, filepath.Join(j.View, "end"))
}

func manyAtOnce(t *testing.T, j *job) {
	var wg sync.WaitGroup
	for i := range 6 {
		one := j.Job
		p := j.f.Place(t)
		one.Attempt, one.View, one.Path = NewID(t), p.View, p.Path
		one.Script = []string{fmt.Sprintf("echo %d > me; sleep 0.2; cat me", i)}
		wg.Go(func() {
			var log Log
			res, err := j.f.Adapter.Run(t.Context(), one, &log)
			if err != nil || res.Status != plugin.StatusSuccess || plain(log.String()) != fmt.Sprintf("%d\n", i) {
				t.Errorf("job %d: %v, %+v, %q", i, err, res, log.String())
			}
		})
	}
	wg.Wait()
}

func killUnknown(t *testing.T, j *job) {
	require.NoError(t, j.f.Adapter.Kill(t.Context(), NewID(t)))
	require.Error(t, j.f.Adapter.Kill(t.Context(), "../../etc"))
}
