package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer"
)

// Agent is one host. Run it once.
type Agent struct {
	o       Options
	plugin  Plugin // nil if there is an adapter
	log     hclog.Logger
	up      *transfer.Uploader
	fetch   *transfer.Fetcher
	turns   turns // of fetches
	session snapshot.ID
	// uid and gid own a fresh view.
	uid, gid int
	// budgetDown is fetchBudgetDown, tellWait the constant of that name, but in tests.
	budgetDown, tellWait time.Duration
	// freed gets a token when a slot became free or the lease came back.
	freed chan struct{}
	// hurry gets a token when the next heartbeat should not wait.
	hurry chan struct{}
	// short gets a token when a job found no room.
	short chan struct{}
	// jobs counts the goroutines of attempts, behind those that pack and report.
	jobs, behind sync.WaitGroup
	// out is the context of what outlives Run's own; quitting ends when the jobs are
	// to stop. Both are set once, before anything is started.
	out, quitting context.Context //nolint:containedctx // those of Run

	// mu guards all below. It is never held across I/O or a callback.
	mu      sync.Mutex
	id      snapshot.ID // given by the coordinator
	lease   time.Duration
	beat    time.Duration
	renewed time.Duration // when the last renewal was sent, by elapsed
	running map[snapshot.ID]*running
	slots   []bool // in use
	polling int    // requests for work under way
	stuck   int    // views that could not be discarded, in the way of others
	// anew says that the coordinator has to hear of the pool again: it has changed.
	anew bool
	// draining says that no more work is taken.
	draining bool
	// holdings are the changes that the coordinator has not heard of.
	holdings []api.Holding
	encode   rate
	// evicted counts layers that went for want of room since the start, and bytes.
	evicted, evictedBytes int64
	// noRoom says that there is no room for the views of more jobs.
	noRoom bool
	// offered are layers that are uploaded again, or were tried to be.
	offered map[snapshot.Digest]time.Time
	// offers are the slots whose runners want a job, guests the attempts in runners of
	// their own, those that ended not long ago included.
	offers   map[int]*offer
	offerSeq int
	guests   map[snapshot.ID]*guest
	swept    time.Duration // when guests were last looked through, by elapsed
	// closing says that no plugin's call may begin anything any more.
	closing bool
}

// running is an attempt that the coordinator counts as ours.
type running struct {
	ref    api.AttemptRef
	slot   int
	cancel context.CancelCauseFunc
	// freed says that it does not hold its slot any more; guarded by Agent.mu.
	freed bool
	// guest is set if it runs in a runner of its own: nothing stops it but a word that
	// it is not ours.
	guest *guest
}

// Why an attempt was stopped, as the cause of its context.
var (
	errCanceled = errors.New("canceled")
	errFenced   = errors.New("given to another host")
	errLease    = errors.New("the coordinator was not reached for too long: the host's lease is lost")
	errShutdown = errors.New("the agent was stopped")
)

// owner is what an adapter says about the user of its jobs, if it does.
type owner interface{ Owner() (uid, gid int) }

// newAgent makes an agent of checked options.
func newAgent(o Options) (*Agent, error) {
	a := &Agent{
		o: o, log: o.Log, freed: make(chan struct{}, 1), hurry: make(chan struct{}, 1), short: make(chan struct{}, 1),
		running: map[snapshot.ID]*running{}, slots: make([]bool, o.Slots),
		offered: map[snapshot.Digest]time.Time{}, offers: map[int]*offer{}, guests: map[snapshot.ID]*guest{},
		uid: o.UID, gid: o.GID, budgetDown: fetchBudgetDown, tellWait: tellWait,
	}
	id, err := snapshot.NewID(o.Rand)
	if err != nil {
		return nil, err
	}
	a.session = id
	if o.Plugin != nil {
		if a.plugin, err = o.Plugin(served{a}); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	if w, ok := o.Adapter.(owner); ok {
		a.uid, a.gid = w.Owner()
	}
	a.fetch = transfer.NewFetcher(transfer.FetcherOptions{Blobs: o.Blobs, Log: o.Log.Named("fetch"), Now: o.Now, Rand: o.Rand})
	a.up = transfer.NewUploader(transfer.UploaderOptions{
		Source: o.Store, Blobs: o.Blobs, Durable: a.durable, Rate: o.UploadRate,
		Log: o.Log.Named("upload"), Now: o.Now, Rand: o.Rand,
	})
	return a, nil
}

// Run serves until ctx ends, and then stops the jobs, reports, uploads what it can
// within DrainTimeout and says good-bye. A name that another agent holds is an
// error at once; a coordinator that does not answer is waited for.
func (a *Agent) Run(ctx context.Context) error {
	for _, dir := range []string{a.logDir(), a.guestDir()} {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("agent: %w", err)
		}
	}
	// out outlives ctx: what was done must be told.
	out, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	a.out = out
	var quit func()
	a.quitting, quit = context.WithCancel(out)
	defer quit()
	var own sync.WaitGroup
	defer own.Wait()
	defer stop()
	kept := a.keep(out, &own)
	left, todo, err := a.recover(ctx, out)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	own.Go(func() { a.ended("store", a.o.Store.Run(out)) })
	own.Go(func() { a.ended("upload", a.up.Run(out)) })

	over, err := a.register(ctx, a.refs(left))
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("agent %s: %w", a.o.Name, err)
	}
	if a.o.Ready != nil {
		a.o.Ready()
	}
	return a.serve(ctx, &begun{out: out, stop: stop, leaving: quit, broken: kept, left: left, todo: todo, over: over})
}

// begun is what Run has begun or found when it comes to serve.
type begun struct {
	out           context.Context //nolint:containedctx // Agent.out, which stop ends
	stop, leaving func()          // leaving ends Agent.quitting
	broken        <-chan error    // why an adapter can't be kept running
	left          []leftover      // ended by an earlier process, not reported
	todo          []func()        // resume the guests
	over          map[snapshot.ID]bool
}

// keep runs the process of an adapter that has one, until out ends. The channel gives
// an error if it can't be kept running.
func (a *Agent) keep(out context.Context, own *sync.WaitGroup) <-chan error {
	broken := make(chan error, 1)
	if k, ok := a.o.Adapter.(interface {
		Keep(ctx context.Context) error
	}); ok {
		own.Go(func() {
			if err := k.Keep(out); err != nil {
				broken <- err
			}
		})
	}
	return broken
}

// serve does everything between registration and good-bye.
func (a *Agent) serve(ctx context.Context, b *begun) error {
	ctx, quit := context.WithCancelCause(ctx)
	defer quit(nil)
	beats, stopBeats := context.WithCancel(b.out)
	defer stopBeats()
	var keep sync.WaitGroup
	keep.Go(func() { a.heartbeats(beats, quit) })
	keep.Go(func() { a.guard(beats) })
	keep.Go(func() { a.watchRoom(beats) })
	keep.Go(func() { a.scrubs(beats) })
	a.reportLeftovers(b.out, b.left, b.over)
	a.resumeGuests(b.todo, b.over)
	a.resumePacking(b.out)

	hosted := a.host(ctx, quit)
	keep.Go(func() {
		select {
		case err := <-b.broken:
			quit(&pluginError{err})
		case <-beats.Done():
		}
	})

	a.claims(ctx, b.out)
	fatal := context.Cause(ctx)
	a.endJobs(b, hosted)
	stopBeats()
	keep.Wait()
	if !a.hasGuests() { // they go on without us
		a.leave(b.out)
	}
	b.stop()
	a.behind.Wait()
	var taken *nameTakenError
	var unkept *pluginError
	if errors.As(fatal, &taken) || errors.As(fatal, &unkept) {
		return fmt.Errorf("agent %s: %w", a.o.Name, fatal)
	}
	return nil
}

// endJobs takes no more work, stops what runs, and uploads what it can in time.
func (a *Agent) endJobs(b *begun, hosted <-chan struct{}) {
	a.mu.Lock()
	a.draining = true
	a.mu.Unlock()
	b.leaving()
	a.cancelAll(errShutdown)
	<-hosted
	a.mu.Lock()
	a.closing = true
	a.mu.Unlock()
	// A job may use its grace twice: for the script, and for after_script.
	last := time.AfterFunc(2*a.o.Grace+a.o.DrainTimeout, b.stop)
	defer last.Stop()
	a.jobs.Wait()
	a.drain(b.out)
}

// drain waits for what is being packed and uploaded, within DrainTimeout. What is
// not done then is done after the next start.
func (a *Agent) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, a.o.DrainTimeout)
	defer cancel()
	packed := make(chan struct{})
	go func() {
		a.behind.Wait()
		close(packed)
	}()
	select {
	case <-packed:
	case <-ctx.Done():
	}
	if err := a.up.Drain(ctx); err != nil {
		n, bytes := a.up.Pending()
		a.log.Warn("stopping before all is uploaded", "snapshots", n, "bytes", bytes)
	}
}

// ended logs the end of something that should last.
func (a *Agent) ended(what string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		a.log.Error("background work ended", "what", what, "err", err)
	}
}

// leave says good-bye. Without it the coordinator would wait for the lease's end.
func (a *Agent) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	a.mu.Lock()
	id := a.id
	a.mu.Unlock()
	if err := a.o.Coordinator.Leave(ctx, id, api.Leave{Session: a.session}); err != nil {
		a.log.Debug("good-bye", "err", err)
	}
}

// fingerprint is what must be equal for a tree to be of use on another host.
func (a *Agent) fingerprint() string {
	path := "per-slot"
	if a.o.BuildsDir != "" {
		path = a.o.BuildsDir
	}
	return runtime.GOOS + "/" + runtime.GOARCH + " path=" + filepath.ToSlash(path)
}

func (a *Agent) logDir() string { return filepath.Join(a.o.Dir, "logs") }
