package coordinator

import (
	"fmt"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// A caller with a host's own token speaks for that host alone: what another host is, holds and runs is
// out of its reach. The token that all agents share speaks for any.

// errOtherHost refuses what is another host's.
func errOtherHost(host string) error {
	return &api.Error{HTTP: 403, Code: api.CodeForbidden, Text: fmt.Sprintf("this token is for host %q alone", host)}
}

// owns checks that what a call's path names is the caller's host's. What is not known is left to the
// handler, which answers as for anybody. What an attempt leaves has the attempt's id; once its facts are
// known, whoever holds it may say that it is durable.
func (c *call) owns(name string, id snapshot.ID) error {
	if c.who.host == "" {
		return nil
	}
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	host, known := "", false
	if name == "agent" {
		host, known = c.s.world.agents[id]
	} else if a := c.s.world.attempts[id]; a != nil {
		x := c.s.world.snapshots[id]
		host, known = a.Host, name == "attempt" || x == nil || !x.Packed
	}
	if known && host != c.who.host {
		return errOtherHost(c.who.host)
	}
	return nil
}

// mayRegister checks under which name a caller comes, and that its store is not another host's.
func (c *call) mayRegister(r api.Register) error {
	if c.who.host == "" {
		return nil
	}
	if r.Name != c.who.host {
		return errOtherHost(c.who.host)
	}
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	for name, h := range c.s.world.hosts {
		if name != r.Name && h.StoreID == r.StoreID && h.State != api.HostLeft {
			return errOtherHost(c.who.host)
		}
	}
	return nil
}
