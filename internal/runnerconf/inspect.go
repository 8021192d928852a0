package runnerconf

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Found is what a file says of the entry that is to become sticky.
type Found struct {
	Name, URL, Token, Executor string
	// Slots is how many jobs of it ran at once: its limit, or the file's concurrent.
	Slots int
	// Others is how many other entries there are.
	Others    int
	BuildsDir string // "" if it is the executor's own
	CAFile    string
	// HostNetwork says that containers share the host's addresses.
	HostNetwork bool
	// Notes are what people should know; nothing of it is in the way.
	Notes []string

	index int
}

// Executors that can be made sticky.
const (
	Shell  = "shell"
	Docker = "docker"
	Custom = "custom"
)

// RefusedError says why an entry can't be made sticky, and what helps.
type RefusedError struct{ Why, Cure string }

func (e *RefusedError) Error() string { return e.Why }

func refuse(cure, format string, a ...any) error {
	return &RefusedError{Why: fmt.Sprintf(format, a...), Cure: cure}
}

// Inspect finds the entry with a name, or the only one if name is "".
func (f *File) Inspect(name string) (*Found, error) {
	all, err := f.entries()
	if err != nil {
		return nil, err
	}
	e, err := pick(all, name)
	if err != nil {
		return nil, err
	}
	out := &Found{
		Name: e.Text("name"), URL: e.Text("url"), Token: e.Text("token"), Executor: e.Text("executor"),
		BuildsDir: e.Text("builds_dir"), CAFile: e.Text("tls-ca-file"), Others: len(all) - 1, index: e.Index,
		HostNetwork: e.Text("docker", "network_mode") == "host",
	}
	if out.Slots = e.Int("limit"); out.Slots <= 0 {
		out.Slots = f.concurrent()
	}
	if err := e.usable(out); err != nil {
		return nil, err
	}
	out.note(e)
	return out, nil
}

// concurrent is how many jobs the runner's process runs at once.
func (f *File) concurrent() int {
	n, _ := f.get("concurrent").(int64)
	return max(1, int(n))
}

func pick(all []*entry, name string) (*entry, error) {
	var names []string
	var found []*entry
	for _, e := range all {
		n := e.Text("name")
		names = append(names, fmt.Sprintf("%q", n))
		if name == "" || n == name {
			found = append(found, e)
		}
	}
	have := "it has " + strings.Join(names, ", ")
	switch {
	case len(all) == 0:
		return nil, refuse("register a runner first: gitlab-runner register", "the file has no [[runners]]")
	case len(found) == 0:
		return nil, refuse(have, "the file has no [[runners]] with name = %q", name)
	case len(found) > 1 && name == "":
		return nil, refuse("say which with --runner NAME: "+have, "the file has %d [[runners]]", len(all))
	case len(found) > 1:
		return nil, refuse("give each a name of its own", "%d [[runners]] have name = %q", len(found), name)
	}
	return found[0], nil
}

// usable refuses what Roost can't serve.
func (e *entry) usable(f *Found) error {
	u, err := url.Parse(f.URL)
	switch {
	case f.Token == "":
		return refuse("register it first: gitlab-runner register", "the runner %q has no token", f.Name)
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return refuse("", "the runner %q has url = %q, which is no URL", f.Name, f.URL)
	case f.BuildsDir != "" && !filepath.IsAbs(f.BuildsDir):
		return refuse("", "the runner %q has builds_dir = %q, which is not absolute", f.Name, f.BuildsDir)
	case slotURL(u):
		return refuse("undo that first: roost uninstall gitlab; or put back the url by hand", "the runner %q has a slot of Roost's as its url already: %s", f.Name, f.URL)
	case e.Text("tls-cert-file") != "" || e.Text("tls-key-file") != "":
		return refuse("", "the runner %q shows GitLab a client's certificate (tls-cert-file), which Roost can't do for it", f.Name)
	case !slices.Contains([]string{Shell, Docker, Custom}, f.Executor):
		return refuse("shell, docker and custom are", "executor %q of runner %q is not supported", f.Executor, f.Name)
	}
	if host := e.Text("docker", "host"); f.Executor == Docker && host != "" && !strings.HasPrefix(host, "unix://") {
		return refuse("", "the docker daemon of runner %q is elsewhere (host = %q): it could not see this host's workspaces", f.Name, host)
	}
	return nil
}

// slotURL reports whether a URL is what an installation would have written.
func slotURL(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	rest, ok := strings.CutPrefix(strings.Trim(u.Path, "/"), "slot")
	return ok && rest != "" && strings.Trim(rest, "0123456789") == "" && ip != nil
}

// note says what people should know of the entry.
func (f *Found) note(e *entry) {
	add := func(format string, a ...any) { f.Notes = append(f.Notes, fmt.Sprintf(format, a...)) }
	if t, ok := e.Get("token_expires_at").(time.Time); ok && t.Year() > 1 {
		add("the runner's token ends on %s, and the runner does not renew it any more: renew it by then, with GitLab's API or by a new runner, and put it into gitlab.token_files", t.Format(time.DateOnly))
	}
	if on, ok := e.Get("feature_flags", "FF_ENABLE_JOB_CLEANUP").(bool); ok && on {
		add("FF_ENABLE_JOB_CLEANUP is set to false: it would delete what the next job needs")
	}
	for _, kv := range e.List("environment") {
		switch k, _, _ := strings.Cut(kv, "="); k {
		case "GIT_STRATEGY", "GIT_CLONE_PATH", "GIT_CLEAN_FLAGS":
			add("environment sets %s for all jobs: Roost's own wins, except in jobs that set it themselves", k)
		}
	}
	if e.Text("clone_url") != "" {
		add("clone_url stays: jobs fetch with git from there, not through Roost")
	}
}
