package runner

import (
	"fmt"
	"strings"
)

// quote makes s one word of bash.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func words(w ...string) string {
	q := make([]string, len(w))
	for i, s := range w {
		q[i] = quote(s)
	}
	return strings.Join(q, " ")
}

type lines struct{ strings.Builder }

func (l *lines) add(format string, args ...any) { fmt.Fprintf(l, format+"\n", args...) }
func (l *lines) echo(format string, args ...any) {
	l.add("echo %s", quote(fmt.Sprintf("\x1b[32;1m"+format+"\x1b[0;m", args...)))
}

// exports are the variables as a script gets them; files are written beside the project.
func (b *build) exports(status string) *lines {
	l := new(lines)
	l.add("set -eo pipefail\nset +o noclobber\n:")
	l.add("mkdir -p %s", quote(b.tmp()))
	for _, v := range b.vars {
		if v.Key == "CI_JOB_STATUS" && status != "" {
			v.Value = status
		}
		if v.File {
			l.add("printf %%s %s > %s", quote(v.Value), quote(b.tmp()+"/"+v.Key))
			v.Value = b.tmp() + "/" + v.Key
		}
		l.add("export %s=%s", v.Key, quote(v.Value))
	}
	return l
}

// prepareScript removes what an earlier job may have left (section 3, stage 1).
func (b *build) prepareScript() string {
	l := new(lines)
	l.add("set -eo pipefail\necho \"Running on $(hostname)...\"")
	l.add("rm -f %s %s", quote(b.tmp()+"/gitlab_runner_env"), quote(b.tmp()+"/masking.db"))
	return l.String()
}

// userScript is a step of the job itself.
func (b *build) userScript(commands []string, status string) string {
	l := b.exports(status)
	env := b.tmp() + "/gitlab_runner_env"
	l.add("export GITLAB_ENV=%s", quote(env))
	l.add("touch %s; while IFS= read -r line; do [ -z \"$line\" ] || export \"${line?}\"; done < %s", quote(env), quote(env))
	l.add("cd %s", quote(b.dir))
	for _, c := range commands {
		first, rest, more := strings.Cut(c, "\n")
		if more && rest != "" {
			first += " # collapsed multi-line command"
		}
		l.echo("$ %s", first)
		l.add("%s", c)
	}
	return l.String()
}

// getSources is stage 2 of section 3.
func (b *build) getSources() string {
	l := b.exports("")
	l.add("export GIT_TERMINAL_PROMPT=0 GCM_INTERACTIVE=Never")
	b.hook(l, "pre_get_sources_script")
	dir := quote(b.dir)
	switch b.strategy() {
	case gitNone:
		l.echo("Skipping Git repository setup")
		l.add("mkdir -p %s", dir)
		l.echo("Skipping Git checkout")
		return l.String()
	case gitEmpty:
		l.echo("Skipping Git repository setup and creating an empty build directory")
		l.add("%s\nmkdir -p %s", rmDir(b.dir), dir)
		return l.String()
	case gitFetch, gitClone:
	default:
		l.add("echo 'unknown GIT_STRATEGY'; exit 1")
		return l.String()
	}
	b.locks(l)
	ext := b.externalConfig(l)
	if b.strategy() == gitClone {
		l.add("%s", rmDir(b.dir))
	}
	b.fetch(l, ext)
	b.checkout(l)
	b.hook(l, "post_get_sources_script")
	return l.String()
}

func rmDir(dir string) string {
	d := quote(dir)
	return fmt.Sprintf("if [ -e %s ]; then chmod -R u+rwX %s; rm -r -f %s; fi", d, d, d)
}

func (b *build) clearWorktree() string {
	l := new(lines)
	l.add("set -eo pipefail")
	l.echo("Deleting tracked and untracked files...")
	l.add("if [ -d %s ]; then cd %s; git rm -rf --ignore-unmatch --quiet .; git clean -ffdx -q; fi", quote(b.dir), quote(b.dir))
	return l.String()
}

func (b *build) hook(l *lines, name string) {
	for _, h := range b.job.Hooks {
		if h.Name == name && b.strategy() != gitNone && b.strategy() != gitEmpty {
			for _, c := range h.Script {
				l.echo("$ %s", c)
				l.add("%s", c)
			}
		}
	}
}

// cleanupScript is stage 7 of section 3: the secrets go, the workspace stays.
func (b *build) cleanupScript() string {
	l := new(lines)
	l.add("set -eo pipefail")
	l.echo("Cleaning up project directory and file based variables")
	for _, v := range b.vars {
		if v.File {
			l.add("rm -f %s", quote(b.tmp()+"/"+v.Key))
		}
	}
	for _, f := range []string{"gitlab_runner_env", "masking.db", ".gitlab-runner.ext.conf"} {
		l.add("rm -f %s", quote(b.tmp()+"/"+f))
	}
	l.add("rm -rf %s", quote(b.tmp()+"/git-template"))
	if b.cl.e.Executor != "shell" && b.cl.e.Executor != "" && b.strategy() != gitNone {
		l.add("rm -rf %s %s", quote(b.dir+"/.git/config"), quote(b.dir+"/.git/hooks"))
	}
	if !b.flag("FF_ENABLE_JOB_CLEANUP") {
		return l.String()
	}
	switch b.strategy() {
	case gitClone, gitEmpty:
		l.add("%s", rmDir(b.dir))
	case gitFetch:
		l.add("cd %s", quote(b.dir))
		if flags := b.cleanFlags(); flags != nil {
			l.add("git clean %s", words(flags...))
		}
		l.add("git reset --hard")
	}
	return l.String()
}
