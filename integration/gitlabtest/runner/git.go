package runner

import (
	"net/url"
	"strconv"
	"strings"
)

// locks removes what a killed git left, and a repository's own settings where they are
// not to be trusted: clean_git_config, on but for shell and strategy none.
func (b *build) locks(l *lines) {
	g := quote(b.dir + "/.git")
	for _, f := range []string{"index.lock", "shallow.lock", "HEAD.lock", "config.lock", "hooks/post-checkout"} {
		l.add("rm -f %s/%s", g, f)
	}
	l.add("if [ -d %s/refs ]; then find %s/refs -name '*.lock' -type f -delete; fi", g, g)
	if b.cl.e.Executor != "shell" && b.cl.e.Executor != "" {
		l.add("rm -rf %s/config %s/hooks %s", g, g, quote(b.tmp()+"/git-template"))
	}
}

func (b *build) remote() (with, without string) {
	u, err := url.Parse(b.job.GitInfo.RepoURL)
	if err != nil {
		return b.job.GitInfo.RepoURL, b.job.GitInfo.RepoURL
	}
	if c, err := url.Parse(b.cl.e.CloneURL); err == nil && c.Host != "" {
		u.Scheme, u.Host = c.Scheme, c.Host
	}
	with = u.String()
	u.User = nil
	return with, u.String()
}

// externalConfig is where the token stands: beside the project, included by its
// configuration.
func (b *build) externalConfig(l *lines) string {
	ext, template := b.tmp()+"/.gitlab-runner.ext.conf", b.tmp()+"/git-template"
	with, without := b.remote()
	l.add("mkdir -p %s", quote(template))
	l.add("rm -f %s", quote(ext))
	l.add("git config -f %s http.extraHeader %s", quote(ext), quote("X-Gitaly-Correlation-ID: "+b.job.correlation))
	l.add("git config -f %s --replace-all %s %s", quote(ext), quote("url."+with+".insteadOf"), quote(without))
	l.add("rm -f %s/config", quote(template))
	for _, kv := range [][2]string{
		{"init.defaultBranch", "none"},
		{"fetch.recurseSubmodules", "false"},
		{"credential.interactive", "never"},
		{"gc.autoDetach", "false"},
		{"include.path", ext},
	} {
		l.add("git config -f %s/config %s", quote(template), words(kv[0], kv[1]))
	}
	return ext
}

func (b *build) fetch(l *lines, ext string) {
	gi := b.job.GitInfo
	depth := b.vars.int("GIT_DEPTH", gi.Depth)
	if depth > 0 {
		l.echo("Fetching changes with git depth set to %d...", depth)
	} else {
		l.echo("Fetching changes...")
	}
	_, origin := b.remote()
	l.add("git init -q %s --template %s", quote(b.dir), quote(b.tmp()+"/git-template"))
	l.add("cd %s", quote(b.dir))
	l.add("if git remote add origin %s >/dev/null 2>&1; then", quote(origin))
	l.echo("Created fresh repository.")
	l.add("else\ngit remote set-url origin %s", quote(origin))
	l.add("git config --replace-all include.path %s '.*gitlab-runner.ext.conf$'\nfi", quote(ext))
	args := append([]string{"git", "-c", "http.userAgent=" + userAgent, "fetch", "origin", "--no-recurse-submodules"}, gi.Refspecs...)
	if depth > 0 {
		args = append(args, "--depth", strconv.Itoa(depth))
	}
	flags := b.vars.Get("GIT_FETCH_EXTRA_FLAGS")
	if flags == "" {
		flags = "--prune --quiet"
	}
	args = append(args, strings.Fields(flags)...)
	if depth > 0 {
		l.add("%s", words(args...))
		return
	}
	l.add("if [ -f .git/shallow ]; then %s --unshallow; else %s; fi", words(args...), words(args...))
}

// checkout throws away changes of tracked files; clean comes after it and takes the
// untracked ones.
func (b *build) checkout(l *lines) {
	gi := b.job.GitInfo
	if v, ok := b.vars.find("GIT_CHECKOUT"); ok && v.Value != "" && !b.vars.Bool("GIT_CHECKOUT") {
		l.echo("Skipping Git checkout")
		return
	}
	l.echo("Checking out %.8s as detached HEAD (ref is %s)...", gi.SHA, gi.Ref)
	force := "-f "
	if b.c.broken(CheckoutForce) {
		force = ""
	}
	l.add("git -c submodule.recurse=false checkout %s-q %s", force, gi.SHA)
	if flags := b.cleanFlags(); flags != nil {
		l.add("git clean %s", words(flags...))
	}
}

// cleanFlags is nil for no clean at all.
func (b *build) cleanFlags() []string {
	f := b.vars.Get("GIT_CLEAN_FLAGS")
	switch f {
	case "":
		return []string{"-ffdx"}
	case "none":
		return nil
	}
	return strings.Fields(f)
}
