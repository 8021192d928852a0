package runner

import (
	"strconv"
	"strings"
)

// programEnv makes a program that calls Main do as the runner's own program does.
const (
	programEnv = "GITLABTEST_RUNNER_COMMAND"
	scaleEnv   = "GITLABTEST_RUNNER_SCALE"
)

// command is a call of the runner's program from a job's script.
func (b *build) command(args ...string) string {
	return programEnv + "=1 " + scaleEnv + "=" + strconv.FormatFloat(b.c.Scale, 'g', -1, 64) + " " + words(append([]string{b.program()}, args...)...)
}

func (b *build) program() string {
	if b.cl.e.Executor == "docker" {
		return dockerProgram
	}
	return b.r.program
}

// downloads are the artifacts of other jobs (call 9), by the runner's program in the
// job's environment. Those without a file are skipped. "" if there are none.
func (b *build) downloads() string {
	var l lines
	for _, d := range b.job.Dependencies {
		if d.ArtifactsFile.Filename == "" {
			continue
		}
		l.echo("Downloading artifacts for %s (%d)...", d.Name, d.ID)
		l.add("%s", b.command("artifacts-downloader", "--url", b.cl.e.URL, "--token", d.Token, "--id", strconv.FormatInt(d.ID, 10)))
	}
	return b.inProject(l.String())
}

func (b *build) inProject(s string) string {
	if s == "" {
		return ""
	}
	l := b.exports("")
	l.add("cd %s\n%s", quote(b.dir), s)
	return l.String()
}

// uploads are the job's own artifacts (call 10).
func (b *build) uploads(success bool) string {
	var l lines
	for _, a := range b.job.Artifacts {
		switch a.When {
		case "", "on_success":
			if !success {
				continue
			}
		case "on_failure":
			if success {
				continue
			}
		}
		args := []string{"artifacts-uploader", "--url", b.cl.e.URL, "--token", b.job.Token, "--id", strconv.FormatInt(b.job.ID, 10)}
		for _, p := range a.Paths {
			args = append(args, "--path", expandPath(b.vars, p))
		}
		for _, p := range a.Exclude {
			args = append(args, "--exclude", expandPath(b.vars, p))
		}
		if a.Untracked {
			args = append(args, "--untracked")
		}
		for _, o := range [][2]string{{"--name", a.Name}, {"--expire-in", a.ExpireIn}, {"--artifact-format", a.Format}, {"--artifact-type", a.Type}} {
			if o[1] != "" {
				args = append(args, o[0], o[1])
			}
		}
		l.echo("Uploading artifacts...")
		l.add("%s", b.command(args...))
	}
	return b.inProject(l.String())
}

func expandPath(v Variables, p string) string {
	if !strings.Contains(p, "$") {
		return p
	}
	return Variables{{Key: "x", Value: p}}.expandIn(v)
}

func (v Variables) expandIn(source Variables) string {
	all := append(append(Variables{}, source...), v...)
	return all.expanded(&Config{}, "").Get("x")
}
