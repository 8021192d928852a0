package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/internal/durable"
)

// service is what the two daemons share: logging, and their tie to a parent.
type service struct {
	config     string
	logLevel   string
	withParent bool
	// outlive is for how long it stays when its parent ended without a word: a
	// coordinator is needed until the agents beside it have cleaned up.
	outlive time.Duration
}

// stopWord on standard input, before its end, is the parent's wish to stop now.
const stopWord = "stop"

func (s *service) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.config, "config", "", "configuration file (TOML)")
	c.Flags().StringVar(&s.logLevel, "log-level", "", "trace, debug, info, warn or error (log_level; default info)")
	offer(c, "log-level", "trace", "debug", "info", "warn", "error")
	c.Flags().BoolVar(&s.withParent, "with-parent", false, "stop when standard input ends")
	c.Flags().MarkHidden("with-parent") //nolint:errcheck // the flag exists, one line above
}

// start returns the service's logger and a context that ends with the parent. level is
// what the file says; a flag wins.
func (s *service) start(cmd *cobra.Command, name, level string) (context.Context, hclog.Logger, error) {
	log := hclog.New(&hclog.LoggerOptions{Name: name, Level: hclog.LevelFromString(level), Output: cmd.ErrOrStderr()})
	ctx := cmd.Context()
	if s.withParent {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		go func() {
			said, _ := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64)) //nolint:errcheck // any end is the end
			if string(said) != stopWord {
				time.Sleep(s.outlive)
			}
			cancel(errors.New("the parent process has ended"))
		}()
	}
	return ctx, log, nil
}

// ready is the line that a daemon prints on standard output once it serves.
type ready struct {
	Ready string `json:"ready"` // coordinator or agent
	URL   string `json:"url,omitempty"`
}

func sayReady(w io.Writer, r ready) error { return json.NewEncoder(w).Encode(r) }

// readToken reads a token file and refuses one that others can read.
func readToken(path string) (string, error) {
	fi, err := os.Stat(path)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err // which says the path again
		}
		return "", fmt.Errorf("token file %s: %w", path, err)
	}
	if fi.Mode().Perm()&0o077 != 0 && !ignoreModes {
		return "", fmt.Errorf("token file %s can be read by others (mode %04o): chmod 600 it", path, fi.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if t := strings.TrimSpace(string(b)); len(t) >= 32 {
		return t, nil
	}
	return "", fmt.Errorf("token file %s holds no token of 32 characters or more", path)
}

// ensureToken reads the token at path, and makes one first if there is none.
func ensureToken(path string) (string, error) {
	t, err := readToken(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	t = hex.EncodeToString(b[:])
	err = durable.WriteFile(path, 0o600, func(w io.Writer) error {
		_, err := io.WriteString(w, t+"\n")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return t, nil
}
