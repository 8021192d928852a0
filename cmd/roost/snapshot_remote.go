package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
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
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.
`

// connect opens a remote; done must be called.
func (e *elsewhere) connect(where string) (r depot, done func(), err error) {
	scheme, _, ok := strings.Cut(where, "://")
	if !ok {
		return openDirRemote(where)
	}
	u, err := url.Parse(where)
	if err != nil {
		return nil, nil, usageError(errors.New("that is no URL"), "")
	}
	if u.User != nil {
		return nil, nil, usageError(errors.New("a URL must not hold a user or password: command lines are seen by others"), "use --token-file or the environment")
	}
	switch scheme {
	case "file":
		return openDirRemote(u.Path)
	case "http", "https":
		return e.openHTTP(u)
	case "s3":
		return openS3(u)
	}
	return nil, nil, usageError(fmt.Errorf("URL scheme %.20q is not known", scheme), "want a directory, http://, https:// or s3://")
}

func openDirRemote(dir string) (depot, func(), error) {
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
