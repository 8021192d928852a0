package exec

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/roost-ci/roost/plugin"
)

//go:embed checkout.sh
var checkoutScript string

var (
	commitWord = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	refWord    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/@+#-]{0,254}$`)
)

// checkSource refuses what git could take for an option or a command.
func checkSource(s *plugin.Source) error {
	u, err := url.Parse(s.URL)
	if err != nil {
		return errors.New("source: the URL can't be read") // the error would quote it, with what it holds
	}
	switch u.Scheme {
	case "http", "https", "ssh", "git", "file":
	default:
		return fmt.Errorf("source: scheme %q is not one of http, https, ssh, git, file", u.Scheme)
	}
	if strings.ContainsAny(s.URL, "\n\x00") || strings.ContainsAny(s.Header, "\r\n\x00") {
		return errors.New("source: a line break in the URL or the header")
	}
	if s.Commit == "" && s.Ref == "" {
		return errors.New("source: neither a commit nor a ref")
	}
	if s.Commit != "" && !commitWord.MatchString(s.Commit) {
		return fmt.Errorf("source: commit %.80q is not a full id", s.Commit)
	}
	if s.Ref != "" && !refWord.MatchString(s.Ref) {
		return fmt.Errorf("source: ref %.80q", s.Ref)
	}
	return nil
}

// checkout brings the view to the commit and returns it. It runs as the job's
// user and before anything of the job does, so that nothing can read the header
// from git's environment.
func (r *run) checkout(ctx context.Context) (string, error) {
	s := r.job.Source
	// The header is in the text of the script, which nobody else can read, and from
	// there in the environment of the fetch alone: whatever the tree's .git/config
	// makes git run besides does not get it.
	script := "header=" + quote(s.Header) + "\n" + checkoutScript
	e, err := r.shell(ctx, script, r.gitEnv(), r.a.o.SourceTimeout, r.job.Grace)
	switch {
	case errors.Is(err, errTimeout):
		return "", fmt.Errorf("took longer than %s", r.a.o.SourceTimeout)
	case err != nil:
		return "", err
	case e.Code == exitNoCommit:
		return "", fmt.Errorf("commit %s is not in the repository", s.Commit)
	case e.Code == exitFetch:
		return "", errors.New("git can't fetch it (see the log)")
	case e.Code != 0:
		return "", fmt.Errorf("git failed with exit code %d (see the log)", e.Code)
	}
	if s.Commit != "" {
		return s.Commit, nil
	}
	c, err := readCommit(filepath.Join(r.at.hostTmp, commitFile))
	if err != nil {
		return "", err
	}
	return c, os.Remove(filepath.Join(r.at.hostTmp, commitFile))
}

// readCommit reads what the checkout says is the commit. The directory is the job
// user's, and a filter in the tree's .git/config may have left a process there: so
// the name may be anything by now, a link to what only we can read, or a pipe.
func readCommit(name string) (string, error) {
	f, err := openPlain(name)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was only read
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return "", errors.New("what tells the commit is not a file")
	}
	b, err := io.ReadAll(io.LimitReader(f, 128))
	if err != nil {
		return "", err
	}
	c := strings.TrimSpace(string(b))
	if !commitWord.MatchString(c) {
		return "", errors.New("what git calls the commit is none")
	}
	return c, nil
}

// Exit statuses of checkout.sh, and the file that it leaves in TMPDIR.
const (
	exitFetch    = 71
	exitNoCommit = 72
	commitFile   = "roost-commit"
)

// gitEnv is the environment of the checkout. Settings go by the environment,
// which is not kept, rather than into .git/config, which is.
func (r *run) gitEnv() []string {
	s := r.job.Source
	depth := 20
	if d, err := strconv.Atoi(r.job.Env["GIT_DEPTH"]); err == nil && d >= 0 {
		depth = d
	}
	m := map[string]string{
		"PATH": r.a.o.Path, "HOME": r.at.home, "TMPDIR": r.at.tmp, "LANG": "C.UTF-8",
		"USER": r.a.user.Name, "LOGNAME": r.a.user.Name,
		"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
		"ROOST_URL": s.URL, "ROOST_REF": s.Ref, "ROOST_COMMIT": s.Commit,
		"ROOST_DEPTH": strconv.Itoa(depth), "ROOST_COMMIT_FILE": commitFile,
		markVar: string(r.job.Attempt),
	}
	conf := [][2]string{
		{"core.hooksPath", "/dev/null"},
		{"core.fsmonitor", "false"},
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
		{"advice.detachedHead", "false"},
		{"init.defaultBranch", "main"},
		{"protocol.ext.allow", "never"},
		// A tree that came from a snapshot has other inode numbers and ctimes than the
		// index says; without these git would read every file again.
		{"core.checkStat", "minimal"},
		{"core.trustctime", "false"},
		// The root of a tree that another user's job made.
		{"safe.directory", "*"},
	}
	for i, c := range conf {
		m[fmt.Sprintf("GIT_CONFIG_KEY_%d", i)], m[fmt.Sprintf("GIT_CONFIG_VALUE_%d", i)] = c[0], c[1]
	}
	m["GIT_CONFIG_COUNT"] = strconv.Itoa(len(conf))
	return flatten(m)
}
