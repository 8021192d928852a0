package main

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/coordinator/api"
)

// remote says which coordinator a command talks to: the one of its flags, or the
// embedded one of a state directory.
type remote struct {
	url, tokenFile, pin, state string
}

func (r *remote) flags(c *cobra.Command) {
	c.Flags().StringVar(&r.url, "coordinator", os.Getenv("ROOST_COORDINATOR"), "URL of a coordinator (env ROOST_COORDINATOR); default: one of our own")
	c.Flags().StringVar(&r.tokenFile, "token-file", os.Getenv("ROOST_TOKEN_FILE"), "file with the user token for --coordinator (env ROOST_TOKEN_FILE)")
	c.Flags().StringVar(&r.pin, "pin", os.Getenv("ROOST_PIN"), "pin of that coordinator's certificate, the second part of its join line (env ROOST_PIN)")
	c.Flags().StringVar(&r.state, "state", defaultState(), "directory of the embedded coordinator and agents")
}

// userTokenHint says where the token is that people come with.
const userTokenHint = "the coordinator made one at its first start: STATE_DIR/user.token there; a copy of it has mode 0600"

// reachError says what to do about a coordinator that can't be reached.
func reachError(ctx context.Context, what string, err error) error {
	out := apiError(ctx, what, err)
	var e *exitError
	if errors.As(out, &e) && e.code == exitUnreachable {
		e.hint = reachHint(err)
	}
	return out
}

// reachHint is the cure of an error of a call that did not get through.
func reachHint(err error) string {
	var untrusted *tls.CertificateVerificationError
	var other *pinError
	switch {
	case errors.As(err, &untrusted):
		return "a coordinator with a certificate of its own is known by its pin: --pin, the second part of what roost coordinator join prints there"
	case errors.As(err, &other):
		return "if it has a new key, roost coordinator join prints the new pin there"
	}
	return "is it running, and can this machine reach it?"
}

// defaultState is $XDG_STATE_HOME/roost, as the XDG base directories have it.
func defaultState() string {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "roost")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ".roost"
	}
	return filepath.Join(home, ".local", "state", "roost")
}

// connect returns a client for a coordinator that runs already: the configured
// one, or the embedded one if a process serves r.state now. ok is false when
// there is neither.
func (r *remote) connect(ctx context.Context) (c *api.Client, ok bool, err error) {
	if r.url != "" {
		if r.tokenFile == "" {
			return nil, false, usageError(errors.New("--coordinator needs --token-file"), userTokenHint)
		}
		token, err := readToken(r.tokenFile)
		if err != nil {
			return nil, false, usageError(err, userTokenHint)
		}
		c, err := api.NewClient(r.url, token, coordinatorHTTP(r.pin))
		if err != nil {
			return nil, false, usageError(err, "")
		}
		if err := c.Health(ctx); err != nil {
			return nil, false, reachError(ctx, "coordinator "+r.url, err)
		}
		return c, true, nil
	}
	f, err := readClusterFile(r.state)
	if err != nil {
		return nil, false, nil
	}
	token, err := readToken(filepath.Join(r.state, "coordinator", "user.token"))
	if err != nil {
		return nil, false, nil
	}
	if c, err = api.NewClient(f.URL, token, nil); err != nil || c.Health(ctx) != nil {
		return nil, false, nil
	}
	return c, true, nil
}
