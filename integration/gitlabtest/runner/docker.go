package runner

import (
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // a name
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"
)

// dockerProgram is where the helper container has the runner's program.
const dockerProgram = "/usr/bin/gitlab-runner-helper"

// docker is the docker executor (section 4), by the docker command: one helper container
// for git and artifacts, one for the job's own commands, both kept until the end and
// both with the same volumes; services beside them.
type docker struct {
	b       *build
	d       *Docker
	name    string
	volumes []string
	made    []string // containers
	temp    string   // a volume that ends with the job
	links   []string // of services
	started map[bool]bool
}

func newDocker(b *build) (executor, error) {
	if b.cl.e.Docker == nil {
		return nil, configError("missing docker configuration")
	}
	return &docker{
		b: b, d: b.cl.e.Docker, started: map[bool]bool{},
		name: fmt.Sprintf("runner-%s-project-%d-concurrent-%d-%d", strings.ToLower(shortToken(b.cl.e.Token)), b.job.JobInfo.ProjectID, b.projectID, b.job.ID),
	}, nil
}

func (x *docker) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = os.Environ()
	if x.d.Host != "" {
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+x.d.Host)
	}
	return cmd
}

func (x *docker) do(ctx context.Context, args ...string) error {
	if out, err := x.command(ctx, args...).CombinedOutput(); err != nil {
		return systemError(fmt.Errorf("docker %s: %w: %s", args[0], err, out))
	}
	return nil
}

// prepare comes after the job did: what is mounted below a volume by then is seen by
// the containers (section 4).
func (x *docker) prepare(ctx context.Context) error {
	e := x.b.cl.e
	root := cmp.Or(e.BuildsDir, "/builds")
	shared := x.covers(root)
	if err := x.b.prepareDirs(root, cmp.Or(e.CacheDir, "/cache"), shared, true); err != nil {
		return err
	}
	fmt.Fprintf(x.b.out, "Using Docker executor with image %s ...\n", x.image(false))
	x.volumes = append(x.volumes, x.d.Volumes...)
	if !shared {
		volume := x.name + "-builds"
		if x.b.strategy() == gitFetch {
			volume = fmt.Sprintf("runner-%x-cache-%x", sha256.Sum256(fmt.Appendf(nil, "%s,%s,%d,%d", e.Token, x.b.c.SystemID, x.b.job.JobInfo.ProjectID, x.b.projectID)),
				md5.Sum([]byte(root))) //nolint:gosec // a name
		} else {
			x.temp = volume
		}
		x.volumes = append(x.volumes, volume+":"+root)
	}
	var links []string
	for i, s := range x.b.job.Services {
		name := fmt.Sprintf("%s-svc-%d", x.name, i)
		args := append([]string{"run", "-d", "--name", name, "--pull", "never"}, x.flags()...)
		if x.d.NetworkMode == "" {
			links = append(links, "--link", name+":"+serviceAlias(s))
		}
		x.made = append(x.made, name)
		if err := x.do(ctx, append(args, s.Name)...); err != nil {
			return err
		}
	}
	x.links = links
	return nil
}

// serviceAlias is the host name of a service: its alias, or its image without the tag.
func serviceAlias(s Image) string {
	if s.Alias != "" {
		return s.Alias
	}
	name, _, _ := strings.Cut(s.Name, ":")
	return strings.ReplaceAll(name, "/", "__")
}

// covers says that a volume of the configuration is at or above dir.
func (x *docker) covers(dir string) bool {
	for _, v := range x.d.Volumes {
		parts := strings.Split(v, ":")
		if len(parts) < 2 {
			continue
		}
		if to := path.Clean(parts[1]); dir == to || strings.HasPrefix(dir, to+"/") {
			return true
		}
	}
	return false
}

func (x *docker) flags() []string {
	var f []string
	for _, v := range x.volumes {
		f = append(f, "-v", v)
	}
	if x.d.NetworkMode != "" {
		f = append(f, "--network", x.d.NetworkMode)
	}
	return append(f, x.links...)
}

func (x *docker) image(helper bool) string {
	if helper {
		return x.d.HelperImage
	}
	if x.b.job.Image.Name != "" {
		return Variables{{Key: "x", Value: x.b.job.Image.Name}}.expandIn(x.b.vars)
	}
	return x.d.Image
}

// run starts the stage's container, anew if it has run before, with the script as its
// input. Stopping it ends all that is in it.
func (x *docker) run(ctx context.Context, s script) error {
	name := x.name + "-build"
	if s.predefined {
		name = x.name + "-predefined"
	}
	if !x.started[s.predefined] {
		args := append([]string{"create", "-i", "--name", name, "--pull", "never"}, x.flags()...)
		if s.predefined {
			args = append(args, "-v", x.b.r.program+":"+dockerProgram+":ro", "-e", "HOME=/root", "-w", "/")
		}
		x.made = append(x.made, name)
		if err := x.do(ctx, append(args, x.image(s.predefined), "bash")...); err != nil {
			return err
		}
		x.started[s.predefined] = true
	}
	text := s.text
	if s.predefined {
		text = "umask 0000\ngit config --global --replace-all safe.directory " + quote(x.b.dir) + " 2>/dev/null || true\n" + text
	}
	cmd := x.command(context.WithoutCancel(ctx), "start", "-a", "-i", name)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			_ = x.do(context.WithoutCancel(ctx), "stop", "-t", "1", name) // the script's end is what counts
		case <-done:
		}
	}()
	return runCommand(ctx, x.b, cmd.Args, cmd.Env, "eval "+quote(text)+"\nexit 0\n")
}

// cleanup removes the containers and what was made for this job alone.
func (x *docker) cleanup() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range x.made {
		if err := x.do(ctx, "rm", "-f", "-v", name); err != nil {
			x.b.r.logf("job %d: %v", x.b.job.ID, err)
		}
	}
	if x.temp != "" {
		if err := x.do(ctx, "volume", "rm", "-f", x.temp); err != nil {
			x.b.r.logf("job %d: %v", x.b.job.ID, err)
		}
	}
}
