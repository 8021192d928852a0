package gitlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// Executors that the runner may use.
const (
	ExecutorShell  = "shell"
	ExecutorDocker = "docker"
	// ExecutorCustom: the runner talks to GitLab itself and calls roost for the
	// workspace alone. It needs neither URL nor Listen.
	ExecutorCustom = "custom"
)

// Config is what Settings.Config holds, as JSON.
type Config struct {
	// URL is where GitLab is: http or https, with the path of a relative
	// installation if there is one. Nothing is ever sent anywhere else.
	URL string `json:"url,omitempty"`
	// Listen are the addresses for the runner, host:port: loopback, and the docker
	// bridge's own address where helper containers have to reach it.
	Listen []string `json:"listen,omitempty"`
	// Executor is shell, docker or custom. Default shell.
	Executor string `json:"executor,omitempty"`
	// BuildsDir is the runner's builds_dir as the job sees it. A job works in
	// BuildsDir/<Name>.
	BuildsDir string `json:"builds_dir"`
	Slots     []Slot `json:"slots"`
	// Tokens are the runners' real tokens. The first is that of slots which name none.
	Tokens []string `json:"tokens,omitempty"`
	// CAFile holds the certificates of a GitLab that the system does not trust, PEM.
	// They are also given to jobs, for git.
	CAFile string `json:"ca_file,omitempty"`
	// Socket is where the custom executor's calls find us: those of root and of our own user.
	// Default: custom.sock in Settings.Dir.
	Socket string `json:"socket,omitempty"`

	// HoldMS is how long a request for a job waits for one. The runner's own limit is
	// 10 minutes. Default 4 minutes.
	HoldMS int64 `json:"hold_ms,omitempty"`
	// KeepAliveMS is how often GitLab hears of a job that the runner does not touch.
	// Default 30 s.
	KeepAliveMS int64 `json:"keep_alive_ms,omitempty"`
	// FinalMS is how long a runner's final update is held at most before it is told to
	// ask again. Default 8 minutes.
	FinalMS int64 `json:"final_ms,omitempty"`
	// AckMS is how long a job that was handed out may be silent before it counts as
	// never delivered. Default 75 s: a runner touches a job each 30 s.
	AckMS int64 `json:"ack_ms,omitempty"`
	// GoneMS is how long a running job may be silent while its slot's runner asks for
	// another one, before its runner counts as dead. Default 40 s.
	GoneMS int64 `json:"gone_ms,omitempty"`
	// SilentMS is how long a job whose runner was told to stop may be silent before it
	// counts as stopped. Default 10 minutes.
	SilentMS int64 `json:"silent_ms,omitempty"`
	// OrphanMS is how long a job that is ready waits for its slot's next request when
	// the one that it was made for was answered meanwhile. Default 60 s.
	OrphanMS int64 `json:"orphan_ms,omitempty"`
	// CustomMS is how long a job of the custom executor waits for its workspace to be
	// given. Default 60 s.
	CustomMS int64 `json:"custom_ms,omitempty"`
	// RetryMS is the first pause between two tries to reach GitLab or the agent; it
	// doubles up to 60 s. Default 1 s.
	RetryMS int64 `json:"retry_ms,omitempty"`
}

// Slot is one [[runners]] entry of this host.
type Slot struct {
	Number int `json:"number"`
	// Token is the entry's token: made by the installer, known to nobody else.
	Token string `json:"token"`
	// UpstreamToken is the real token; default: the first of Config.Tokens.
	UpstreamToken string `json:"upstream_token,omitempty"`
	// BuildsDir is Config.BuildsDir for this slot, where it can't be the same for all.
	BuildsDir string `json:"builds_dir,omitempty"`
}

// ParseConfig reads and checks a configuration, and fills in the defaults. It
// names everything that is wrong.
func ParseConfig(raw json.RawMessage) (*Config, error) {
	c := &Config{Executor: ExecutorShell}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("gitlab: configuration: %w", err)
	}
	c.defaults()
	errs := []error{c.checkURL(), c.checkListen(), c.checkSlots()}
	if !slices.Contains([]string{ExecutorShell, ExecutorDocker, ExecutorCustom}, c.Executor) {
		errs = append(errs, fmt.Errorf("executor %q: want shell, docker or custom", c.Executor))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("gitlab: configuration: %w", err)
	}
	return c, nil
}

func (c *Config) defaults() {
	for _, d := range []struct {
		ms  *int64
		def time.Duration
	}{
		{&c.HoldMS, 4 * time.Minute},
		{&c.KeepAliveMS, 30 * time.Second},
		{&c.FinalMS, 8 * time.Minute},
		{&c.AckMS, 75 * time.Second},
		{&c.GoneMS, 40 * time.Second},
		{&c.SilentMS, 10 * time.Minute},
		{&c.OrphanMS, time.Minute},
		{&c.CustomMS, time.Minute},
		{&c.RetryMS, time.Second},
	} {
		if *d.ms <= 0 {
			*d.ms = d.def.Milliseconds()
		}
	}
	for i := range c.Slots {
		s := &c.Slots[i]
		if s.BuildsDir == "" {
			s.BuildsDir = c.BuildsDir
		}
		if s.UpstreamToken == "" && len(c.Tokens) > 0 {
			s.UpstreamToken = c.Tokens[0]
		}
	}
}

func (c *Config) checkURL() error {
	if c.Executor == ExecutorCustom && c.URL == "" {
		return nil
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return errors.New("url: not a URL") // its text may hold a password
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("url: want http:// or https:// and a host")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("url: want no user, query or fragment")
	}
	if p := strings.TrimSuffix(u.Path, "/"); p != "" && path.Clean(p) != p {
		return fmt.Errorf("url: path %q is not clean", u.Path)
	}
	return nil
}

func (c *Config) checkListen() error {
	if c.Executor != ExecutorCustom && len(c.Listen) == 0 {
		return errors.New("listen: at least one address")
	}
	for _, a := range c.Listen {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			return fmt.Errorf("listen %q: %w", a, err)
		}
		ip, err := netip.ParseAddr(host)
		if err != nil || ip.IsUnspecified() {
			return fmt.Errorf("listen %q: want the number of one address: anybody who reaches it can try tokens", a)
		}
	}
	return nil
}

func (c *Config) checkSlots() error {
	if len(c.Slots) == 0 {
		return errors.New("slots: at least one")
	}
	numbers, tokens := map[int]bool{}, map[string]bool{}
	for _, s := range c.Slots {
		switch {
		case s.Number < 1:
			return fmt.Errorf("slot %d: numbers begin with 1", s.Number)
		case numbers[s.Number]:
			return fmt.Errorf("slot %d: twice", s.Number)
		case c.Executor == ExecutorCustom:
		case len(s.Token) < 16:
			return fmt.Errorf("slot %d: its token has less than 16 characters", s.Number)
		case tokens[s.Token]:
			return fmt.Errorf("slot %d: another slot has the same token", s.Number)
		case s.UpstreamToken == "" || s.UpstreamToken == s.Token:
			return fmt.Errorf("slot %d: no real token to use for it", s.Number)
		case !path.IsAbs(s.BuildsDir) || path.Clean(s.BuildsDir) != s.BuildsDir:
			return fmt.Errorf("slot %d: builds_dir %q: want a clean absolute path", s.Number, s.BuildsDir)
		}
		numbers[s.Number], tokens[s.Token] = true, true
	}
	return nil
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
