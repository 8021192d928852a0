package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
)

// joinLine is what a host needs to know of its coordinator, in one line:
// roost-join:URL#PIN#TOKEN. The pin is empty for a coordinator without TLS, which is
// one on the same machine. It holds a secret.
type joinLine struct {
	URL, Pin, token string
}

const joinPrefix = "roost-join:"

var (
	pinRE       = regexp.MustCompile(`^[0-9a-f]{64}$`)
	joinTokenRE = regexp.MustCompile(`^[0-9A-Za-z_-]{32,256}$`)
)

func (j joinLine) line() string { return joinPrefix + j.URL + "#" + j.Pin + "#" + j.token }

// parseJoin reads a line. It says nothing of the line in its errors.
func parseJoin(s string) (joinLine, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), joinPrefix)
	parts := strings.Split(rest, "#")
	if !ok || len(parts) != 3 {
		return joinLine{}, errors.New("not a line of roost coordinator join: want roost-join:URL#PIN#TOKEN, whole and in quotes")
	}
	j := joinLine{URL: parts[0], Pin: parts[1], token: parts[2]}
	u, err := url.Parse(j.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || (u.Scheme != "http" && u.Scheme != "https"):
		return joinLine{}, errors.New("the join line has no URL with http or https")
	case j.Pin != "" && !pinRE.MatchString(j.Pin):
		return joinLine{}, errors.New("the join line's pin is not a SHA-256 in 64 digits 0-9 a-f")
	case u.Scheme == "http" && configs.Loopback(u.Host) != nil:
		return joinLine{}, errors.New("the join line's URL is http on another machine: the token would be sent for all to read")
	case (u.Scheme == "https") != (j.Pin != ""):
		return joinLine{}, errors.New("the join line has a pin without https, or https without a pin")
	case !joinTokenRE.MatchString(j.token):
		return joinLine{}, errors.New("the join line has no token; was it cut off?")
	}
	return j, nil
}

// readJoin reads the line that --join gives: itself, @FILE, or - for standard input.
// The arguments of a daemon can be read by every job on its machine, so that a
// daemon does not take the line itself.
func readJoin(arg string, in io.Reader, daemon bool) (joinLine, error) {
	switch {
	case arg == "-":
		b, err := io.ReadAll(io.LimitReader(in, 4096))
		if err != nil {
			return joinLine{}, err
		}
		return parseJoin(string(b))
	case strings.HasPrefix(arg, "@"):
		line, err := readToken(arg[1:])
		if err != nil {
			return joinLine{}, err
		}
		return parseJoin(line)
	case daemon:
		return joinLine{}, errors.New("jobs on this machine can read the arguments of its processes: put the line into a file of mode 0600 and say --join @FILE, or give it by standard input and say --join -")
	}
	return parseJoin(arg)
}

func newJoin() *cobra.Command {
	var o coordinatorOptions
	var host string
	var revoke bool
	c := &cobra.Command{
		Use:   "join",
		Short: "Print the line that lets a host join",
		Long: `Prints one line that holds the coordinator's URL, the pin of its certificate and
the agents' token, for roost install gitlab --join LINE and roost agent --join @FILE
on other hosts. It is a secret. The coordinator must have been started once.

With --host the line has a token that is good for the host of that name (agent.name)
and no other. --revoke ends it: the host keeps what it has, and its next call is
refused.` + exitHelp,
		Example: "  roost coordinator join --config /etc/roost/config.toml --host runner-7",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.configure()
			if err != nil {
				return err
			}
			switch {
			case revoke && host == "":
				return usageError(errors.New("--revoke needs --host"), "delete STATE_DIR/agent.token and restart the coordinator to end the shared one")
			case revoke:
				return revokeHostToken(cfg.Coordinator.StateDir, host)
			}
			j, err := joinOf(cfg.Coordinator, host)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), j.line())
			return nil
		},
	}
	c.Flags().StringVar(&o.config, "config", "", "configuration file (TOML)")
	c.Flags().StringVar(&o.listen, "listen", "", "address that it listens on (coordinator.listen)")
	c.Flags().StringVar(&o.stateDir, "state-dir", "", "directory of its state (coordinator.state_dir)")
	c.Flags().StringVar(&o.url, "url", "", "URL that hosts reach it by (coordinator.url)")
	c.Flags().StringVar(&host, "host", "", "the one host that the line is for")
	c.Flags().BoolVar(&revoke, "revoke", false, "end that host's token")
	return c
}

// joinOf makes the line of a coordinator that has been started, for one host or, if that is "", for all.
func joinOf(cfg configs.Coordinator, host string) (joinLine, error) {
	const hint = "start the coordinator first: it makes its token and its certificate"
	token, err := readToken(filepath.Join(cfg.StateDir, "agent.token"))
	switch {
	case host != "":
		token, err = makeHostToken(cfg.StateDir, host)
	case cfg.HostTokens == "required":
		return joinLine{}, usageError(errors.New("coordinator.host_tokens is required: each host has a token of its own"), "say which host: --host NAME")
	}
	if err != nil {
		return joinLine{}, usageError(err, hint)
	}
	j := joinLine{URL: cfg.URL, token: token}
	if j.URL == "" {
		if j.URL, err = publicURL(cfg); err != nil {
			return j, usageError(err, "say it with --url or coordinator.url")
		}
	}
	if !cfg.Secure() {
		return j, nil
	}
	cert := cfg.TLSCert
	if cert == "" {
		cert = filepath.Join(cfg.StateDir, "tls", "cert.pem")
	}
	if j.Pin, err = pinOfFile(cert); err != nil {
		return j, usageError(err, hint)
	}
	return j, nil
}

// publicURL is the URL of a coordinator as others see it, as far as it can be known.
func publicURL(cfg configs.Coordinator) (string, error) {
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return "", err
	}
	if port == "0" {
		return "", fmt.Errorf("coordinator.listen = %q has no port of its own", cfg.Listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return "", err
		}
	}
	scheme := "http://"
	if cfg.Secure() {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port), nil
}
