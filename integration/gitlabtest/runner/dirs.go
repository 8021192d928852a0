package runner

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// The strategies of section 3.
const (
	gitFetch = "fetch"
	gitClone = "clone"
	gitNone  = "none"
	gitEmpty = "empty"
)

func (b *build) strategy() string {
	s := b.vars.Get("GIT_STRATEGY")
	if s == "" {
		if b.job.AllowGitFetch {
			return gitFetch
		}
		return gitClone
	}
	return s
}

// prepareDirs decides where the job works (section 3) and makes its variables. shared
// says that the builds directory has other projects too, custom what custom_build_dir
// is if nobody set it.
func (b *build) prepareDirs(root, cache string, shared, custom bool) error {
	if b.cl.e.CustomBuildDir != nil {
		custom = *b.cl.e.CustomBuildDir
	}
	if root == "" {
		return configError("the builds_dir is not configured")
	}
	b.root = root
	b.vars = b.allVariables("", shared)
	want := b.vars.Get("GIT_CLONE_PATH")
	switch {
	case want == "":
		b.dir = path.Join(root, b.uniqueDir(shared))
	case !custom && !b.c.broken(CustomDir):
		return configError("setting GIT_CLONE_PATH is not allowed, enable `custom_build_dir` feature")
	default:
		rel, err := filepath.Rel(root, want)
		if err != nil {
			return configError("%w", err)
		}
		if strings.HasPrefix(rel, "..") && !b.c.broken(InsideBuilds) {
			return configError("the GIT_CLONE_PATH=%q has to be within %q", want, root)
		}
		b.dir = path.Clean(want)
	}
	b.cache = path.Join(cache, b.slug())
	b.vars = b.allVariables(b.dir, shared)
	return nil
}

// tmp lies beside the project's directory.
func (b *build) tmp() string {
	if b.c.broken(TmpBeside) {
		return b.dir + "/.tmp"
	}
	return b.dir + ".tmp"
}

func (b *build) slug() string {
	u, err := url.Parse(b.job.GitInfo.RepoURL)
	if err != nil || u.Path == "" {
		return fmt.Sprintf("project-%d", b.job.JobInfo.ProjectID)
	}
	return strings.Trim(strings.TrimSuffix(u.Path, ".git"), "/")
}

func (b *build) uniqueDir(shared bool) string {
	dir := b.slug()
	if shared {
		dir = path.Join(shortToken(b.cl.e.Token), strconv.Itoa(b.projectID), dir)
	}
	if b.strategy() == gitEmpty {
		dir += "-empty"
	}
	return dir
}

// allVariables puts the variables in the runner's order (section 2): flags, those
// before the job's, the job's without flags, those after; expanded.
func (b *build) allVariables(dir string, shared bool) Variables {
	var v, job Variables
	flags := map[string]string{}
	for _, e := range b.job.Variables {
		if strings.HasPrefix(e.Key, "FF_") {
			flags[e.Key] = e.Value
		} else {
			job = append(job, e)
		}
	}
	for name, on := range b.cl.e.FeatureFlags {
		flags[name] = strconv.FormatBool(on)
	}
	pub := func(key, value string) { v = append(v, Variable{Key: key, Value: value, Public: true}) }
	for name, value := range flags {
		pub(name, value)
	}
	if b.job.Image.Name != "" {
		pub("CI_JOB_IMAGE", b.job.Image.Name)
	}
	for _, e := range b.cl.e.Environment {
		key, value, _ := strings.Cut(e, "=")
		v = append(v, Variable{Key: key, Value: value})
	}
	pub("CI_BUILDS_DIR", b.root)
	pub("CI_PROJECT_DIR", dir)
	pub("CI_CONCURRENT_ID", strconv.Itoa(b.id))
	pub("CI_CONCURRENT_PROJECT_ID", strconv.Itoa(b.projectID))
	pub("CI_SERVER", "yes")
	pub("CI_JOB_STATUS", "running")
	v = append(v, job...)
	if shared {
		pub("CI_SHARED_ENVIRONMENT", "true")
	} else {
		pub("CI_DISPOSABLE_ENVIRONMENT", "true")
	}
	pub("CI_RUNNER_VERSION", "19.4.0")
	pub("CI_RUNNER_EXECUTABLE_ARCH", "linux/amd64")
	tmp := ""
	if dir != "" {
		tmp = b.dir + ".tmp"
		if b.c.broken(TmpBeside) {
			tmp = b.tmp()
		}
		pub("RUNNER_TEMP_PROJECT_DIR", tmp)
	}
	return v.expanded(b.c, tmp)
}

func (b *build) flag(name string) bool { return b.vars.Bool(name) }
