package coordinator

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/state"
)

// bell tells whoever waits that something is different.
type bell struct {
	mu sync.Mutex // guards ch
	ch chan struct{}
}

func (s *bell) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *bell) set() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// look gives the GitLab service what there is to do.
func (s *Server) look() (gitlab.Work, <-chan struct{}) {
	changed := s.outside.wait()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return gitlab.Work{Wants: s.wants(), Jobs: s.kept()}, changed
}

// want is one pool under counting.
type want struct {
	pool   *api.Pool
	tokens []string
	offers []api.SlotOffer
	free   int
}

// wants says for which runners GitLab may be asked for a job. s.mu is held.
func (s *Server) wants() []gitlab.Want {
	var out []gitlab.Want
	seen := map[string]bool{}
	pools := s.freeSlots()
	for _, key := range slices.Sorted(maps.Keys(pools)) {
		x := pools[key]
		if x.free <= 0 || len(x.offers) == 0 {
			continue
		}
		s.asked++
		from := gitlab.Pool{Name: key, URL: x.pool.URL, Runner: x.offers[s.asked%len(x.offers)].Runner}
		for _, t := range x.tokens {
			if k := x.pool.URL + "\x00" + t; !seen[k] {
				seen[k] = true
				out = append(out, gitlab.Want{Pool: from, Token: gitlab.Secret(t), Free: x.free, Tokens: len(x.tokens)})
			}
		}
	}
	return out
}

// freeSlots counts the slots that wait for a job in each pool. What is queued already
// will take one. s.mu is held.
func (s *Server) freeSlots() map[string]*want {
	w := s.world
	pools := map[string]*want{}
	now := s.now()
	for name, p := range w.fleet {
		h := w.hosts[name]
		if p.pool == nil || h == nil || h.State != api.HostReady || !p.known {
			continue
		}
		x := pools[p.poolKey]
		if x == nil {
			x = &want{pool: p.pool}
			pools[p.poolKey] = x
		}
		for _, t := range p.pool.Tokens {
			if !slices.Contains(x.tokens, t) {
				x.tokens = append(x.tokens, t)
			}
		}
		if p.polls == 0 && !now.Before(p.expect) {
			continue
		}
		if free := min(h.Slots-len(w.live[name])-p.withheld, len(p.offers)); free > 0 {
			x.free += free
			for _, o := range p.offers {
				if len(o.Job) == 0 {
					x.offers = append(x.offers, o)
				}
			}
		}
	}
	for id := range w.queued {
		if e := w.jobs[id].Def.External; e != nil && e.Host == "" && pools[e.Pool] != nil {
			pools[e.Pool].free--
		}
	}
	return pools
}

// kept lists the jobs that no host has accepted, and those that GitLab has to be told
// of. s.mu is held.
func (s *Server) kept() []gitlab.Kept {
	var out []gitlab.Kept
	for id := range s.world.kept {
		j := s.world.jobs[id]
		e := j.Def.External
		k := gitlab.Kept{
			ID: id, URL: e.URL, Job: e.ID, Received: time.UnixMilli(e.ReceivedMS), Plain: e.Plain,
			Given: j.Outside.Given, Log: logIn(j),
			Owed: j.Outside.Owed, OwedSince: time.UnixMilli(j.Outside.OwedMS), Canceled: j.Outside.Stopped, Quiet: j.Outside.Quiet,
			Timeout: time.Duration(j.Def.Spec.TimeoutMS) * time.Millisecond,
		}
		if k.Owed == "" {
			a := s.world.attempts[j.AttemptID]
			if e.Host != "" || (j.Status == api.StatusAssigned && a != nil && a.Stage != state.AttemptAssigned) {
				continue // its host looks after it
			}
			if j.Outside.Asking {
				k.APIToken, k.Path = gitlab.Secret(s.apiToken(e.Pool)), e.Path
			}
			if j.Status == api.StatusQueued {
				k.Queued, k.Waiting = true, s.waitingLine(j)
			}
		}
		out = append(out, k)
	}
	return out
}

// apiToken finds the token that reads pipelines among what the hosts of a pool brought.
func (s *Server) apiToken(pool string) string {
	for _, name := range slices.Sorted(maps.Keys(s.world.fleet)) {
		if p := s.world.fleet[name]; p.poolKey == pool && p.pool != nil && p.pool.APIToken != "" {
			return p.pool.APIToken
		}
	}
	return ""
}

// waitingLine says in a job's log why it waits.
func (s *Server) waitingLine(j *state.Job) string {
	w := s.world.waits[j.ID]
	if w == nil || w.reason == "" || s.now().UnixMilli() < j.NotBefore {
		return ""
	}
	if j.Code == api.WaitHolder {
		for _, c := range w.candidates {
			if c.Excluded == "" && c.MissingBytes == 0 {
				return fmt.Sprintf("waiting for %s, which holds %s of this workspace, about %s", c.Host, bytesText(w.bytes), secondsText(c.Seconds))
			}
		}
	}
	return "waiting: " + w.reason
}

func bytesText(b int64) string {
	switch {
	case b < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(b)/(1<<10))
	case b < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(b)/(1<<20))
	case b < 1<<40:
		return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
	}
	return fmt.Sprintf("%.1f TiB", float64(b)/(1<<40))
}

func secondsText(s float64) string {
	if s < 600 {
		return fmt.Sprintf("%.0f s", s)
	}
	return fmt.Sprintf("%.0f min", s/60)
}
