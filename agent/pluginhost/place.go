package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/roost-ci/roost/plugin/wire"
)

// findUser is the user that a plugin runs as; nil: the agent's.
func findUser(name string) (*wire.User, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		byID, errID := user.LookupId(name)
		if errID != nil {
			return nil, err
		}
		u = byID
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	return &wire.User{UID: uint32(uid), GID: uint32(gid)}, nil
}

// passed are the variables that a plugin sees of the agent's: who and where it is, and
// how this host reaches others. A proxy's address may hold a password, which the
// plugin needs as much as the agent does; no job sees it.
var passed = []string{
	"PATH", "HOME", "TMPDIR", "LANG",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

// environment is all that a plugin sees of the agent's. One that is another user is at home in
// its own directory.
func (h *Host) environment() []string {
	var env []string
	for _, name := range passed {
		v, ok := os.LookupEnv(name)
		if name == "HOME" && h.user != nil {
			v, ok = h.o.Settings.Dir, true
		}
		if ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func (h *Host) makeDir() error {
	dir := h.o.Settings.Dir
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.Chmod(dir, 0o700)
	}
	if err == nil && h.user != nil {
		err = os.Lchown(dir, int(h.user.UID), int(h.user.GID))
	}
	if err != nil {
		return fmt.Errorf("plugin's directory: %w", err)
	}
	return nil
}

// makeSockets makes the directory for the plugin's sockets, anew for each process. It is in
// the plugin's own directory, where nothing is left behind when agents are killed, but the name
// of a socket has to be short, and another user can't be let into a directory that it could
// replace; then it is where temporary files are.
func (h *Host) makeSockets() (string, error) {
	h.removeSockets()
	const longest = 60 // go-plugin adds two names of some 20 bytes; the limit is 104
	dir, err := filepath.Join(h.o.Settings.Dir, ".run"), error(nil)
	if h.user == nil && len(dir) <= longest {
		h.sockets, err = dir, os.Mkdir(dir, 0o700)
	} else if h.sockets, err = os.MkdirTemp("", h.socketsPrefix()); err == nil && h.user != nil {
		err = os.Chmod(h.sockets, 0o711) // go-plugin makes a directory for the plugin's group in it
	}
	if err != nil {
		return "", fmt.Errorf("plugin's sockets: %w", err)
	}
	return h.sockets, nil
}

// socketsPrefix begins the names of this plugin's directories among temporary files. They are
// told from those of other agents by the plugin's own directory, which only one agent uses.
func (h *Host) socketsPrefix() string {
	sum := sha256.Sum256([]byte(h.o.Settings.Dir))
	return "roost-plugin-" + hex.EncodeToString(sum[:4]) + "-"
}

// removeSockets removes what this or an earlier agent made. What can't be removed is in nobody's way
// but the next process's, which says so.
func (h *Host) removeSockets() {
	if h.user == nil {
		_ = os.RemoveAll(filepath.Join(h.o.Settings.Dir, ".run"))
	}
	earlier, _ := filepath.Glob(filepath.Join(os.TempDir(), h.socketsPrefix()+"*"))
	for _, dir := range earlier {
		// Anybody can make such a name there: what is not ours is left alone.
		if fi, err := os.Lstat(dir); err == nil && fi.IsDir() && onlyOurs(fi) == nil {
			_ = os.RemoveAll(dir)
		}
	}
}
