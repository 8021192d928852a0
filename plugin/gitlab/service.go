package gitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// service is one life of Serve.
type service struct {
	o     Options
	log   hclog.Logger
	cfg   *Config
	agent plugin.Agent
	up    *upstream
	recs  *records
	ca    string // PEM for jobs
	slots map[int]*slot
	bufs  *buffers
	std   *log.Logger

	// customs is there for the custom executor alone.
	customs *customs
	socket  string

	// life ends when Serve returns; work counts what runs in it.
	life context.Context
	stop context.CancelFunc
	work sync.WaitGroup

	// known is closed when the agent's attempts were compared with the records:
	// before that nothing is claimed.
	known chan struct{}

	// mu guards the maps. It is never held across I/O. Lock order: slot.mu, service.mu, job.mu.
	mu       sync.Mutex
	jobs     map[string]*job // by GitLab's id: the newest attempt of it
	attempts map[snapshot.ID]*job
	hands    map[snapshot.ID]*hand
}

func newService(ctx context.Context, o Options, set plugin.Settings, a plugin.Agent) (*service, error) {
	cfg, err := ParseConfig(set.Config)
	if err != nil {
		return nil, err
	}
	s := &service{
		o: o, log: o.Log, cfg: cfg, agent: a, slots: map[int]*slot{}, known: make(chan struct{}),
		jobs: map[string]*job{}, attempts: map[snapshot.ID]*job{}, hands: map[snapshot.ID]*hand{},
	}
	for _, c := range cfg.Slots {
		if !slices.Contains(set.Slots, c.Number) {
			return nil, fmt.Errorf("gitlab: slot %d: the agent gave %v", c.Number, set.Slots)
		}
		s.slots[c.Number] = &slot{s: s, cfg: c, asking: make(chan struct{}, 1)}
	}
	if s.up, err = newUpstream(cfg, o.Transport); err != nil {
		return nil, err
	}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("gitlab: ca_file: %w", err)
		}
		s.ca = string(pem)
	}
	if s.recs, err = openRecords(set.Dir); err != nil {
		return nil, err
	}
	if cfg.Executor == ExecutorCustom {
		s.socket = cmp.Or(cfg.Socket, filepath.Join(set.Dir, "custom.sock"))
		if s.customs, err = openCustoms(s, set.Dir); err != nil {
			return nil, err
		}
	}
	s.bufs, s.std = &buffers{}, o.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})
	s.life, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.load()
	return s, nil
}

// serve runs until ctx ends. What is under way then goes on after the next start, from
// the records.
func (s *service) serve(ctx context.Context) error {
	web, err := s.listen(ctx)
	if err != nil {
		s.stop()
		return err
	}
	s.spawn(s.recover)
	s.spawn(s.watch)
	s.mu.Lock()
	for _, j := range s.jobs {
		j.resume()
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
	case err = <-web.failed:
	}
	s.shutdown(ctx, web)
	return err
}

// shutdown ends held requests at once, gives the other calls a moment, and gives
// back what no runner has seen.
func (s *service) shutdown(ctx context.Context, web *web) {
	for _, sl := range s.slots {
		sl.close()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	web.shutdown(ctx)
	s.mu.Lock()
	hands := slices.Collect(maps.Values(s.hands))
	s.mu.Unlock()
	for _, h := range hands {
		select {
		case <-h.ended:
		case <-ctx.Done(): // the next start gives them back
		}
	}
	s.stop()
	s.work.Wait()
}

// spawn runs f in the service's life.
func (s *service) spawn(f func(ctx context.Context)) {
	s.work.Go(func() { f(s.life) })
}

// now is the service's clock.
func (s *service) now() time.Time { return s.o.Now() }

// tries begins to count failures of a call to the agent or GitLab.
func (s *service) tries() *pause.Tries {
	return &pause.Tries{Backoff: pause.Backoff{First: ms(s.cfg.RetryMS), Most: time.Minute, Rand: s.o.Rand}}
}

// tell calls the agent until it answers. Every such call may be repeated. It reports
// whether it was answered before ctx ended.
func (s *service) tell(ctx context.Context, what string, call func(ctx context.Context) error) bool {
	for tries := s.tries(); ; {
		err := call(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.log.Warn("the agent did not answer; trying again", "call", what, "error", err)
		if tries.Wait(ctx, 0) != nil {
			return false
		}
	}
}

var errNotServing = errors.New("gitlab: shutting down")
