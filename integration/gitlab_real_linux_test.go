package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// realRunner is a gitlab-runner to run jobs with instead of ours, for who has one:
// TEST_GITLAB_RUNNER=/path/to/gitlab-runner go test ./integration -run TestGitLab.
var realRunner = os.Getenv("TEST_GITLAB_RUNNER")

// startRealRunner starts it for one slot, in a mount namespace as startRunner does.
func (l *lab) startRealRunner(t testing.TB, host string, slot int) {
	t.Helper()
	h := l.hosts[host]
	name := fmt.Sprintf("%s-%d", host, slot)
	conf := l.write(name+".config.toml", 0o600, fmt.Sprintf(`concurrent = 1
check_interval = 1

[[runners]]
  name = %q
  url = "http://%s/slot%d"
  token = %q
  executor = "shell"
  builds_dir = %q
  limit = 1
  [runners.custom_build_dir]
    enabled = true
`, name, h.listen, slot, h.tokens[slot-1], l.builds))
	log, err := os.Create(filepath.Join(l.dir, name+".runner.log"))
	require.NoError(t, err)
	cmd := exec.Command("unshare", "--mount", "--propagation", "slave", "--", "sh", "-c",
		`mount --rbind "$0" "$1" && shift && exec "$@"`, filepath.Join(l.slots(host), fmt.Sprint(slot)), l.builds,
		realRunner, "--debug", "--log-format", "json", "run", "--config", conf, "--working-directory", l.dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, tailFile(log.Name(), 40))
		}
	})
}
