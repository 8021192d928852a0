package configs

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

var nameRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)

// Validate checks everything and reports all that is wrong, each with its key.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, a ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, a...)))
	}
	c.Coordinator.validate(bad)
	c.Agent.validate(bad)
	c.Store.validate(bad)
	c.GitLab.validate(bad)
	return errors.Join(errs...)
}

// Secure reports whether the coordinator serves TLS: where others could listen,
// or where it was given a certificate.
func (c *Coordinator) Secure() bool { return c.TLSCert != "" || Loopback(c.Listen) != nil }

func (c *Coordinator) validate(bad func(key, format string, a ...any)) {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		bad("coordinator.listen", "%q is not host:port: %v", c.Listen, err)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		bad("coordinator.tls_cert_file", "certificate and key come together: set tls_key_file, too")
	}
	if c.URL != "" {
		if err := origin(c.URL); err != nil {
			bad("coordinator.url", "%v", err)
		} else if secure := strings.HasPrefix(c.URL, "https:"); secure != c.Secure() {
			bad("coordinator.url", "%q, but listen = %q is served %s TLS", c.URL, c.Listen, map[bool]string{true: "with", false: "without"}[c.Secure()])
		}
	}
	for _, u := range c.GitLabURLs {
		if err := origin(u); err != nil {
			bad("coordinator.gitlab_urls", "%v", err)
		}
	}
	if c.HostTokens != "allowed" && c.HostTokens != "required" {
		bad("coordinator.host_tokens", "%q is none of allowed, required", c.HostTokens)
	}
	if d, err := time.ParseDuration(c.HostLease); err != nil || d < 5*time.Second || d > 10*time.Minute {
		bad("coordinator.host_lease", "%q is not a duration from 5s to 10m", c.HostLease)
	}
	if n := c.InfraTries; n < 0 || n > 10 {
		bad("coordinator.infra_retries", "%d is not from 0 to 10", n)
	}
	if err := scrubInterval(c.ScrubInterval); err != nil {
		bad("coordinator.scrub_interval", "%v", err)
	}
	if _, err := ParseSize(c.ScrubRate); err != nil {
		bad("coordinator.scrub_rate", "%v", err)
	}
	level(bad, "coordinator.log_level", c.LogLevel)
}

func level(bad func(key, format string, a ...any), key, value string) {
	if !slices.Contains(Levels, value) {
		bad(key, "%q is none of %s", value, strings.Join(Levels, ", "))
	}
}

func (a *Agent) validate(bad func(key, format string, a ...any)) {
	if a.Name != "" && !nameRE.MatchString(a.Name) {
		bad("agent.name", "%q is not a host name of up to 64 letters, digits, dots, dashes", a.Name)
	}
	if u, err := url.Parse(a.Coordinator); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		bad("agent.coordinator", "%q is not a http or https URL", a.Coordinator)
	} else if u.Scheme == "http" && Loopback(hostPort(u)) != nil {
		bad("agent.coordinator", "%q would send the agent's token over the network for all to read: the coordinator serves https beyond loopback", a.Coordinator)
	}
	if a.Pin != "" && !sumRE.MatchString(a.Pin) {
		bad("agent.coordinator_pin", "%q is not a SHA-256 in 64 digits 0-9 a-f", a.Pin)
	}
	level(bad, "agent.log_level", a.LogLevel)
	if a.Slots < 0 || a.Slots > 256 {
		bad("agent.slots", "%d is not from 0 to 256", a.Slots)
	}
	for _, t := range a.Tags {
		if !nameRE.MatchString(t) {
			bad("agent.tags", "%q is not a tag of up to 64 letters, digits, dots, dashes", t)
		}
	}
	if _, err := ParseSize(a.UploadRate); err != nil {
		bad("agent.upload_rate", "%v", err)
	}
}

// hostPort is the address of a URL, with a port in any case.
func hostPort(u *url.URL) string {
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "80")
	}
	return u.Host
}

func scrubInterval(s string) error {
	if d, err := time.ParseDuration(s); err != nil || d != 0 && d < time.Hour {
		return fmt.Errorf("%q is not a duration of an hour or more, or 0s", s)
	}
	return nil
}

func (s *Store) validate(bad func(key, format string, a ...any)) {
	for _, k := range []struct {
		key, value string
		words      []string
	}{
		{"driver", s.Driver, Drivers},
		{"backing", s.Backing, []string{"none", XFSLoop}},
		{"backing_space", s.BackingSpace, []string{"reserved", Sparse}},
	} {
		if !slices.Contains(k.words, k.value) {
			bad("store."+k.key, "%q is none of %s", k.value, strings.Join(k.words, ", "))
		}
	}
	if n, err := ParseSize(s.BackingSize); err == nil && n != 0 && n < minBacking {
		bad("store.backing_size", "%q is less than 320MiB", s.BackingSize)
	}
	for _, k := range []struct{ key, value string }{
		{"max_bytes", s.MaxBytes}, {"min_free", s.MinFree}, {"scrub_rate", s.ScrubRate}, {"backing_size", s.BackingSize},
	} {
		if _, err := ParseSize(k.value); err != nil {
			bad("store."+k.key, "%v", err)
		}
	}
	if s.HighWater < 10 || s.HighWater > 100 {
		bad("store.high_water", "%d is not a percentage from 10 to 100", s.HighWater)
	}
	if err := scrubInterval(s.ScrubInterval); err != nil {
		bad("store.scrub_interval", "%v", err)
	}
	if s.LowWater < 1 || s.LowWater >= s.HighWater {
		bad("store.low_water", "%d is not from 1 to what is below high_water (%d)", s.LowWater, s.HighWater)
	}
}

// Loopback reports an address that more than this machine could reach.
func Loopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("%q can be reached from other machines; use 127.0.0.1", addr)
}

// ParseSize reads "0", "1048576", "100MiB" or "1.5GB" as bytes.
func ParseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > 1<<62 {
		return 0, fmt.Errorf("%q is not a size such as 1048576 or 100MiB", s)
	}
	return int64(n), nil
}
