package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/transfer/blob"
)

// depot is where snapshots are pushed.
type depot interface {
	blob.Store
	blob.Refs
}

// elsewhere is how push and pull get at a remote.
type elsewhere struct {
	opened
	tokenFile string
	keyFile   string
}

func (e *elsewhere) flags(c *cobra.Command) {
	e.opened.flags(c)
	c.Flags().StringVar(&e.tokenFile, "token-file", "", "file with the token for an http(s) URL; else $ROOST_TOKEN")
	c.MarkFlagFilename("token-file") //nolint:errcheck // the flag exists, one line above
}

const urlHelp = `
URL is a directory, http(s)://HOST/… of a blob server (a coordinator's is
https://HOST/v1/blobs), or s3://BUCKET/PREFIX. A token for HTTP comes from
--token-file or $ROOST_TOKEN, never from the URL; for S3 the environment speaks:
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.`

// connect opens a remote, where something is pushed to or pulled from; done must be
// called.
func (e *elsewhere) connect(where string, push bool) (r depot, done func(), err error) {
	scheme, _, ok := strings.Cut(where, "://")
	if !ok {
		return openDirRemote(where, push)
	}
	u, err := url.Parse(where)
	if err != nil {
		return nil, nil, usageError(errors.New("the place to push to or pull from is no URL"), "want a directory, http(s)://HOST/… or s3://BUCKET/PREFIX")
	}
	if u.User != nil {
		return nil, nil, usageError(errors.New("a URL must not hold a user or password: command lines are seen by others"), "use --token-file or the environment")
	}
	switch scheme {
	case "file":
		return openDirRemote(u.Path, push)
	case "http", "https":
		if u.Host == "" {
			return nil, nil, usageError(errors.New("which host?"), "want "+scheme+"://HOST/…")
		}
		return e.openHTTP(u)
	case "s3":
		return openS3(u)
	}
	return nil, nil, usageError(fmt.Errorf("URL scheme %.20q is not known", scheme), "want a directory, http://, https:// or s3://")
}

// openDirRemote opens a directory that was pushed to, and makes one only for a push
// and only where nothing else is: a word that was mistyped must not fill somebody's
// directory with ours.
func openDirRemote(dir string, push bool) (depot, func(), error) {
	if _, err := os.Lstat(filepath.Join(dir, blob.LockName)); err != nil {
		names, err := os.ReadDir(dir)
		names = slices.DeleteFunc(names, func(n fs.DirEntry) bool { return n.Name() == "lost+found" })
		switch {
		case !push:
			return nil, nil, &exitError{
				code: exitUnreachable, err: fmt.Errorf("nothing was pushed to %s", dir),
				hint: "is it the directory that was given to roost snapshot push? is it mounted?",
			}
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, nil, usageError(err, "want a directory")
		case len(names) > 0:
			return nil, nil, usageError(fmt.Errorf("%s is not empty, and nothing was pushed there before", dir), "push to a directory of its own, such as "+filepath.Join(dir, "roost"))
		}
	}
	d, err := blob.OpenDir(dir, blob.DirOptions{})
	if err != nil {
		return nil, nil, &exitError{code: exitUnreachable, err: err}
	}
	return d, func() { d.Close() }, nil //nolint:errcheck // only a lock
}

func (e *elsewhere) openHTTP(u *url.URL) (depot, func(), error) {
	token := os.Getenv("ROOST_TOKEN")
	if e.tokenFile != "" {
		var err error
		if token, err = readToken(e.tokenFile); err != nil {
			return nil, nil, usageError(err, "")
		}
	}
	if token != "" && u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, nil, usageError(errors.New("a token must not travel over plain http"), "use https, or a tunnel to a loopback address")
	}
	var give func() string
	if token != "" {
		give = func() string { return token }
	}
	h := blob.NewHTTP(u.String(), give, nil)
	return h, h.CloseIdle, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
