package main

import (
	"crypto/sha256"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// hostTokens are the tokens that are good for one host each: files NAME.token in a directory of the
// coordinator's. One that is removed is worth nothing from then on.
type hostTokens struct {
	dir string
	log hclog.Logger

	mu     sync.Mutex
	hosts  map[[sha256.Size]byte]string
	seen   time.Time // the directory's, when it was read
	looked time.Time // when that was
}

const hostTokenEnd = ".token"

// hostTokenDir is where a coordinator's are.
func hostTokenDir(stateDir string) string { return filepath.Join(stateDir, "hosts") }

func hostTokenFile(stateDir, host string) string {
	return filepath.Join(hostTokenDir(stateDir), url.PathEscape(host)+hostTokenEnd)
}

func newHostTokens(stateDir string, log hclog.Logger) *hostTokens {
	return &hostTokens{dir: hostTokenDir(stateDir), log: log}
}

// hostOf implements coordinator.Options.HostOf.
func (t *hostTokens) hostOf(token string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	fi, err := os.Stat(t.dir)
	if err != nil {
		t.hosts = nil
		return ""
	}
	// Two changes within one tick of the file system's clock look like one.
	if settled := t.looked.Sub(t.seen) > 2*time.Second; t.hosts == nil || !settled || !fi.ModTime().Equal(t.seen) {
		t.seen, t.looked = fi.ModTime(), time.Now() //nolint:forbidigo // it is compared with the file system's
		t.read()
	}
	return t.hosts[sha256.Sum256([]byte(token))]
}

func (t *hostTokens) read() {
	t.hosts = map[[sha256.Size]byte]string{}
	list, err := os.ReadDir(t.dir)
	if err != nil {
		t.log.Error("hosts' tokens can't be read; they let nobody in", "error", err)
		return
	}
	for _, e := range list {
		name, ok := strings.CutSuffix(e.Name(), hostTokenEnd)
		host, err := url.PathUnescape(name)
		if !ok || err != nil || host == "" {
			continue
		}
		token, err := readToken(filepath.Join(t.dir, e.Name()))
		if err != nil {
			t.log.Error("a host's token can't be read; it lets nobody in", "host", host, "error", err)
			continue
		}
		t.hosts[sha256.Sum256([]byte(token))] = host
	}
}

// makeHostToken makes the token of one host, or reads the one that there is.
func makeHostToken(stateDir, host string) (string, error) {
	if len(host) > 128 {
		return "", fmt.Errorf("%.40q… is too long for a host's name", host)
	}
	if _, err := os.Stat(filepath.Join(stateDir, "agent.token")); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return ensureToken(hostTokenFile(stateDir, host))
}

// revokeHostToken ends it.
func revokeHostToken(stateDir, host string) error {
	if err := os.Remove(hostTokenFile(stateDir, host)); err != nil {
		if os.IsNotExist(err) {
			return usageError(fmt.Errorf("host %q has no token of its own in %s", host, hostTokenDir(stateDir)), "a token is that of the name given to --host when it was made")
		}
		return err
	}
	return nil
}
