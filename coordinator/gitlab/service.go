package gitlab

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/pause"
)

// Options configure a Service. Board must be set.
type Options struct {
	Board Board
	// Transport makes the calls; a plain one by default. It must not give up a call
	// on its own before MaxHold.
	Transport http.RoundTripper
	Log       hclog.Logger
	Now       func() time.Time
	// Version is told to the server.
	Version string
	// Interval is the time between two requests of a token that brought nothing
	// (3 s), as runners do it.
	Interval time.Duration
	// KeepAlive is how often a job that waits is kept alive (30 s).
	KeepAlive time.Duration
	// FirstLine is after what time a waiting job's log says why it waits (2 s), and
	// NextLine the least time between two such lines (15 s).
	FirstLine, NextLine time.Duration
	// Retry is the first wait after a failure (1 s); it doubles up to a minute.
	Retry time.Duration
}

// MaxHold is how long a server may take to answer a request for a job.
const MaxHold = 2 * time.Minute

func (o Options) withDefaults() Options {
	if o.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // it is one
		t.ResponseHeaderTimeout = MaxHold
		o.Transport = t
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	for _, d := range []struct {
		v *time.Duration
		n time.Duration
	}{
		{&o.Interval, 3 * time.Second},
		{&o.KeepAlive, 30 * time.Second},
		{&o.FirstLine, 2 * time.Second},
		{&o.NextLine, 15 * time.Second},
		{&o.Retry, time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.n
		}
	}
	return o
}

// Service asks for jobs and looks after those that wait. Run it once.
type Service struct {
	o Options

	// The loop's own.
	askers  map[askerKey]*asker
	asking  map[poolKey]int
	keepers map[string]*keeper
	done    chan func()
	running sync.WaitGroup

	// mu guards clients.
	mu      sync.Mutex
	clients map[string]*client
}

type (
	askerKey struct {
		url   string
		token Secret
	}
	poolKey struct{ url, name string }
)

// New makes a Service.
func New(o Options) *Service {
	return &Service{
		o: o.withDefaults(), askers: map[askerKey]*asker{}, asking: map[poolKey]int{}, keepers: map[string]*keeper{},
		done: make(chan func()), clients: map[string]*client{},
	}
}

// Run works until ctx ends. Then it asks for nothing more, and returns when the
// requests that are under way were answered and what they brought is kept.
func (s *Service) Run(ctx context.Context) {
	over := make(chan struct{})
	for ending := ctx.Done(); ; {
		work, changed := s.o.Board.Look()
		next := time.Hour
		if ending != nil {
			next = s.ask(ctx, work.Wants)
			s.keep(ctx, work.Jobs)
		}
		timer := time.NewTimer(next)
		select {
		case <-changed:
		case <-timer.C:
		case f := <-s.done:
			f()
		case <-ending:
			ending = nil
			go func() {
				s.running.Wait()
				close(over)
			}()
		case <-over:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// start runs f beside the loop; what it gives back runs in the loop.
func (s *Service) start(f func() func()) {
	s.running.Go(func() {
		s.done <- f()
	})
}

// ask sends the requests that may be sent now, the token first that waited longest,
// and gives the time until another may be.
func (s *Service) ask(ctx context.Context, wants []Want) time.Duration {
	now := s.o.Now()
	next := time.Hour
	wanted := map[askerKey]bool{}
	order := slices.Clone(wants)
	slices.SortStableFunc(order, func(a, b Want) int {
		return cmp.Compare(s.asker(a).asked.UnixNano(), s.asker(b).asked.UnixNano())
	})
	for _, w := range order {
		k, p := askerKey{w.URL, w.Token}, poolKey{w.URL, w.Name}
		wanted[k] = true
		a := s.asker(w)
		if !a.busy {
			if soon := a.asked.Add(newOffer); w.Free > a.free && a.failures == 0 && soon.Before(a.notBefore) {
				a.notBefore = soon
			}
			a.free = w.Free
		}
		switch wait := a.notBefore.Sub(now); {
		case a.busy || s.asking[p] >= w.Free:
		case wait > 0:
			next = min(next, wait)
		default:
			a.busy, a.asked = true, now
			s.asking[p]++
			s.start(func() func() {
				rest := a.ask(ctx, w)
				return func() {
					a.busy, a.notBefore = false, s.o.Now().Add(rest)
					if s.asking[p]--; s.asking[p] == 0 {
						delete(s.asking, p)
					}
				}
			})
		}
	}
	for k, a := range s.askers {
		if a.busy || wanted[k] {
			continue
		}
		a.free = 0
		// What a token was told last is worth nothing after a while.
		if now.Sub(a.asked) > time.Hour {
			delete(s.askers, k)
		}
	}
	return next
}

func (s *Service) asker(w Want) *asker {
	k := askerKey{w.URL, w.Token}
	a := s.askers[k]
	if a == nil {
		a = &asker{s: s, c: s.client(w.URL)}
		s.askers[k] = a
	}
	return a
}

// keep starts looking after new jobs, tells the others what changed, and stops with
// those that are gone.
func (s *Service) keep(ctx context.Context, jobs []Kept) {
	here := map[string]bool{}
	for _, j := range jobs {
		here[j.ID] = true
		k := s.keepers[j.ID]
		if k == nil {
			kctx, stop := context.WithCancel(ctx)
			k = &keeper{s: s, c: s.client(j.URL), id: j.ID, stop: stop, news: make(chan Kept, 1)}
			s.keepers[j.ID] = k
			s.start(func() func() {
				k.run(kctx)
				return func() {
					stop()
					delete(s.keepers, k.id)
				}
			})
		}
		k.tellNews(j)
	}
	for id, k := range s.keepers {
		if !here[id] {
			k.stop()
		}
	}
}

func (s *Service) client(url string) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[url]
	if c == nil {
		c = newClient(url, s.o.Transport, "roost "+s.o.Version)
		s.clients[url] = c
	}
	return c
}

// backoff is the wait after n failures in a row.
func (s *Service) backoff(n int) time.Duration {
	return pause.Backoff{First: s.o.Retry, Most: time.Minute}.After(n)
}
