//go:build unix

package main

import (
	"net"
	"os"
	"strings"
)

// sdNotify tells systemd, if it asked, what a daemon's state is: READY=1 and the like.
func sdNotify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if strings.HasPrefix(path, "@") {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // one datagram, sent or not
	_, err = c.Write([]byte(state))
	return err
}
