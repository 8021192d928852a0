package testenv

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports that no system gives to a connection by itself: those of Linux begin at 32768, and
// those of the others at 49152.
const firstPort, lastPort = 12_000, 32_000

var (
	addrMu sync.Mutex
	addrs  = map[int]bool{} // that this process was given
)

// Addr is an address on loopback that nobody listens on, for a server that a test starts, and
// may end and start again. A port that the system chose, and that was then let go of, may be
// some connection's by the time that it is wanted; even that of one that looks for the server,
// which then has found itself.
func Addr(t testing.TB) string {
	t.Helper()
	addrMu.Lock()
	defer addrMu.Unlock()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if addrs[port] {
			continue
		}
		at := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", at)
		if err != nil {
			continue // somebody's
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		addrs[port] = true
		return at
	}
	t.Fatal("no port is free")
	return ""
}
