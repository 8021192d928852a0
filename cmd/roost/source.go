package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/pipeline"
)

// findSource fills in what is checked out, and whose earlier pipelines a job may start
// from: what the flags say, else the git work tree of the file, else its directory. A commit is found out here, so that all jobs of a pipeline get the same one.
func (o *runOptions) findSource(cmd *cobra.Command, file string, s *api.Submit) error {
	ctx := cmd.Context()
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return usageError(err, "")
	}
	var fallback string // the project's name, if --project does not say
	switch {
	case o.ref != "" && o.source == "":
		return usageError(errors.New("--ref goes with --source"), "")
	case o.source == "":
		fallback, err = o.workTree(cmd, dir, s)
	case localDir(o.source) != "":
		fallback, err = o.localSource(ctx, s)
	default:
		fallback, err = normalURL(o.source), o.remoteSource(ctx, s)
	}
	s.Project = cmp.Or(s.Project, fallback)
	return err
}

// workTree takes the HEAD of the git work tree that dir lies in, if it does, and
// returns a name for the project.
func (o *runOptions) workTree(cmd *cobra.Command, dir string, s *api.Submit) (string, error) {
	ctx := cmd.Context()
	if !slices.ContainsFunc(o.graph.Jobs, func(j pipeline.Job) bool { return j.Source }) {
		if top, err := git(ctx, dir, "rev-parse", "--show-toplevel"); err == nil {
			return o.origin(ctx, top), nil
		}
		return dir, nil // nobody asks for a commit
	}
	top, err := git(ctx, dir, "rev-parse", "--show-toplevel")
	if err != nil {
		if in := dotGit(dir); in != "" {
			return "", usageError(fmt.Errorf("%s is a git work tree, and git can't read it: %w", in, err),
				"or set the variable GIT_STRATEGY: none, and jobs start without a commit")
		}
		return dir, nil
	}
	head, err := git(ctx, dir, "rev-parse", "--verify", "--quiet", "HEAD")
	if err != nil {
		return "", usageError(fmt.Errorf("%s has no commit to check out", top), "commit something, or set the variable GIT_STRATEGY: none")
	}
	if dirty, err := git(ctx, dir, "status", "--porcelain", "--untracked-files=no"); err == nil && dirty != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: %s has changes that are not committed; jobs get commit %.12s without them\n", top, head)
	}
	s.Source = &api.Source{Dir: top, Commit: head}
	return o.origin(ctx, top), nil
}

// origin names a work tree by its remote, else by its path.
func (o *runOptions) origin(ctx context.Context, top string) string {
	if url, err := git(ctx, top, "remote", "get-url", "origin"); err == nil {
		return normalURL(url)
	}
	return top
}

// dotGit is the directory that holds .git, at dir or above, or "".
func dotGit(dir string) string {
	for {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// localDir is the directory that a --source names, or "" if it is a URL.
func localDir(source string) string {
	if path, ok := strings.CutPrefix(source, "file://"); ok {
		return path
	}
	if fi, err := os.Stat(source); err == nil && fi.IsDir() {
		return source
	}
	return ""
}

// localSource takes a commit of a repository on this machine, with work tree or
// bare, and returns a name for the project.
func (o *runOptions) localSource(ctx context.Context, s *api.Submit) (string, error) {
	dir, err := filepath.Abs(localDir(o.source))
	if err != nil {
		return "", usageError(err, "")
	}
	if _, err := git(ctx, dir, "rev-parse", "--git-dir"); err != nil {
		return "", usageError(fmt.Errorf("--source %s: %w", o.source, err), "")
	}
	commit, err := git(ctx, dir, "rev-parse", "--verify", "--quiet", "--end-of-options", cmp.Or(o.ref, "HEAD")+"^{commit}")
	if err != nil {
		return "", usageError(fmt.Errorf("--source %s has no commit %s", o.source, cmp.Or(o.ref, "HEAD")), "")
	}
	s.Source = &api.Source{Dir: dir, Commit: commit}
	for _, kind := range []string{"refs/heads/", "refs/tags/"} { // and not HEAD~3
		if _, err := git(ctx, dir, "show-ref", "--verify", "--quiet", kind+o.ref); err == nil {
			s.Source.Ref = o.ref
		}
	}
	return o.origin(ctx, dir), nil
}

var commitID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// remoteSource asks a remote repository which commit the ref is. What we can't
// reach the agents of somebody else's coordinator perhaps can: then they find out.
func (o *runOptions) remoteSource(ctx context.Context, s *api.Submit) error {
	if commitID.MatchString(o.ref) {
		s.Source = &api.Source{URL: o.source, Commit: o.ref}
		return nil
	}
	out, err := git(ctx, ".", "ls-remote", "--symref", "--end-of-options", o.source)
	if err != nil && o.url == "" {
		return usageError(fmt.Errorf("--source %s: %w", o.source, err), "")
	}
	ref, commit := pickRef(out, o.ref)
	if err == nil && commit == "" {
		return usageError(fmt.Errorf("--source %s has no branch or tag %s", o.source, cmp.Or(o.ref, "HEAD")), "")
	}
	s.Source = &api.Source{URL: o.source, Ref: cmp.Or(ref, o.ref, "HEAD"), Commit: commit}
	return nil
}

// pickRef finds a branch, a tag or a full ref in what git ls-remote --symref says;
// "" is HEAD, by the name of its branch.
func pickRef(out, want string) (ref, commit string) {
	refs := map[string]string{}
	for l := range strings.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSpace(l), "\t")
		if target, ok := strings.CutPrefix(id, "ref: "); ok && name == "HEAD" {
			ref = strings.TrimPrefix(target, "refs/heads/")
			continue
		}
		refs[name] = id
	}
	if want == "" {
		return ref, refs["HEAD"]
	}
	for _, name := range []string{"refs/heads/" + want, "refs/tags/" + want + "^{}", "refs/tags/" + want, want} {
		if id := refs[name]; id != "" {
			return want, id
		}
	}
	return want, ""
}

// git runs git in dir and returns what it printed, trimmed. Its error is what git
// had to say.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := osexec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.Output()
	var exit *osexec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		first, _, _ := strings.Cut(strings.TrimSpace(string(exit.Stderr)), "\n")
		err = errors.New(strings.TrimPrefix(first, "fatal: "))
	}
	if errors.Is(err, osexec.ErrNotFound) {
		err = errors.New("git is not in PATH")
	}
	return strings.TrimSpace(string(out)), err
}

// normalURL makes one name of a repository's many URLs: host/path in lower-case
// host, without user, port, scheme and .git.
func normalURL(u string) string {
	s := strings.TrimSuffix(strings.TrimSuffix(u, "/"), ".git")
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	} else if host, path, ok := strings.Cut(s, ":"); ok && !strings.Contains(host, "/") {
		s = host + "/" + path // scp form: git@host:path
	}
	host, path, ok := strings.Cut(s, "/")
	if !ok || host == "" {
		return s
	}
	if _, h, ok := strings.Cut(host, "@"); ok {
		host = h
	}
	host, _, _ = strings.Cut(host, ":")
	return strings.ToLower(host) + "/" + path
}
