package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/durable"
)

// clusterFile is STATE/cluster.json: where the embedded coordinator of a state
// directory listens while a process of ours serves it.
type clusterFile struct {
	URL string `json:"url"`
	PID int    `json:"pid"`
	// Shared reports whether other commands may use it: roost up, not roost run,
	// which ends when its own pipeline does.
	Shared bool `json:"shared"`
}

func readClusterFile(state string) (clusterFile, error) {
	var f clusterFile
	b, err := os.ReadFile(filepath.Join(state, "cluster.json"))
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(b, &f)
}

// clusterOptions says what an embedded cluster consists of.
type clusterOptions struct {
	state  string
	hosts  int // agents host-a, host-b, …; 0 for the coordinator alone
	slots  int
	driver string
	tags   []string // of every agent, besides its name
	listen string
	shared bool
	log    hclog.Logger
}

// cluster is a coordinator and some agents, each a process of its own.
type cluster struct {
	client *api.Client
	url    string
	lock   *flock.Flock
	state  string
	left   []int64 // numbers of the pipelines that were canceled at the start

	mu   sync.Mutex // guards stop while agents start side by side
	stop []func()   // the coordinator's first
}

// maxHosts keeps a typing error from starting a thousand agents.
const maxHosts = 26

// startCluster starts everything and returns when all of it serves.
func startCluster(ctx context.Context, o clusterOptions) (_ *cluster, err error) {
	if o.hosts < 0 || o.hosts > maxHosts {
		return nil, usageError(fmt.Errorf("--hosts %d: want 1 to %d", o.hosts, maxHosts), "")
	}
	c := &cluster{}
	if c.state, err = filepath.Abs(o.state); err != nil {
		return nil, usageError(err, "")
	}
	if err := durable.MkdirAll(c.state, 0o755); err != nil {
		return nil, &exitError{code: exitUnreachable, err: fmt.Errorf("state directory: %w", err), hint: "choose another with --state DIR"}
	}
	if err := c.take(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	coord, err := c.launch(ctx, o, "coordinator", 10*time.Second, func(url string) []string {
		listen := o.listen
		if url != "" {
			listen = strings.TrimPrefix(url, "http://")
		}
		return []string{"coordinator", "--state-dir", filepath.Join(c.state, "coordinator"), "--listen", listen, "--local-source"}
	})
	if err != nil {
		return nil, err
	}
	c.url = coord.url
	if err := c.open(o.shared); err != nil {
		return nil, err
	}
	if !o.shared && o.hosts > 0 {
		if err := c.cancelLeft(ctx); err != nil {
			return nil, err
		}
	}
	return c, c.startAgents(ctx, o)
}

// cancelLeft cancels what a roost run left that was killed. Nobody follows it any
// more, and its jobs must not start again beside those of the next.
func (c *cluster) cancelLeft(ctx context.Context) error {
	list, err := c.client.Pipelines(ctx, "", 100)
	if err != nil {
		return apiError(ctx, "pipelines", err)
	}
	for _, p := range list {
		if p.Status.Ended() {
			continue
		}
		if err := c.client.CancelPipeline(ctx, p.ID); err != nil {
			return apiError(ctx, fmt.Sprintf("cancel pipeline %d", p.Number), err)
		}
		c.left = append(c.left, p.Number)
	}
	return nil
}

// take locks the state directory for this process.
func (c *cluster) take() error {
	path := filepath.Join(c.state, "lock")
	c.lock = flock.New(path, flock.SetPermissions(0o600))
	ok, err := c.lock.TryLock()
	if err == nil && ok {
		return durable.WriteFile(filepath.Join(c.state, "holder"), 0o600, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "process %d (roost %s)\n", os.Getpid(), os.Args[min(1, len(os.Args)-1)])
			return err
		})
	}
	if err != nil {
		c.lock = nil
		return &exitError{code: exitUnreachable, err: fmt.Errorf("state directory: %w", err), hint: "choose another with --state DIR"}
	}
	holder := "another process"
	if b, err := os.ReadFile(filepath.Join(c.state, "holder")); err == nil {
		holder = strings.TrimSpace(string(b))
	}
	c.lock = nil
	return &exitError{
		code: exitUnreachable,
		err:  fmt.Errorf("state directory %s is held by %s", c.state, holder),
		hint: "wait for it, give this one a --state of its own, or keep a shared one with: roost up",
	}
}

// open makes the client and tells other commands where the coordinator is.
func (c *cluster) open(shared bool) error {
	token, err := readToken(filepath.Join(c.state, "coordinator", "user.token"))
	if err != nil {
		return err
	}
	if c.client, err = api.NewClient(c.url, token, nil); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(c.state, "cluster.json"), 0o600, func(w io.Writer) error {
		return json.NewEncoder(w).Encode(clusterFile{URL: c.url, PID: os.Getpid(), Shared: shared})
	})
}

// hostName is the name of agent i, from 0.
func hostName(i int) string { return fmt.Sprintf("host-%c", 'a'+i) }

// startAgents starts all agents at once and waits for them.
func (c *cluster) startAgents(ctx context.Context, o clusterOptions) error {
	var (
		wg   sync.WaitGroup
		errs = make([]error, o.hosts)
	)
	for i := range o.hosts {
		name := hostName(i)
		args := func(string) []string {
			return []string{
				"agent", "--name", name, "--coordinator", c.url, "--tags", strings.Join(append([]string{name}, o.tags...), ","),
				"--token-file", filepath.Join(c.state, "coordinator", "agent.token"),
				"--store-dir", filepath.Join(c.state, name), "--driver", o.driver, "--slots", fmt.Sprint(o.slots),
			}
		}
		wg.Go(func() { _, errs[i] = c.launch(ctx, o, name, 40*time.Second, args) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// launch starts one child and waits until it serves.
func (c *cluster) launch(ctx context.Context, o clusterOptions, name string, stopAfter time.Duration, args func(url string) []string) (*child, error) {
	ch := &child{
		name: name, args: func(url string) []string { return append(args(url), "--with-parent") }, note: o.log, stopAfter: stopAfter,
		log: filepath.Join(c.state, "log", name+".log"),
	}
	// The children outlive ctx: an interrupted command still needs them to cancel
	// its jobs in order. Close ends them.
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	first := make(chan error, 2)
	go func() {
		defer close(done)
		ch.run(run, first)
	}()
	c.mu.Lock()
	c.stop = append(c.stop, func() { cancel(); <-done })
	c.mu.Unlock()
	select {
	case err := <-first:
		var ce *childError
		if errors.As(err, &ce) {
			return nil, &exitError{code: ce.exitCode(), err: err, hint: "its log: " + ch.log}
		}
		if err != nil {
			return nil, &exitError{code: exitUnreachable, err: fmt.Errorf("%s: %w", name, err), hint: "its log: " + ch.log}
		}
		return ch, nil
	case <-ctx.Done():
		return nil, &exitError{code: exitInterrupted, err: context.Cause(ctx)}
	}
}

// Close stops the agents, which finish their uploads within a bound, and then the
// coordinator.
func (c *cluster) Close() {
	if len(c.stop) > 0 {
		var wg sync.WaitGroup
		for _, stop := range c.stop[1:] {
			wg.Go(stop)
		}
		wg.Wait()
		c.stop[0]()
		os.Remove(filepath.Join(c.state, "cluster.json")) //nolint:errcheck // a stale one is recognised
	}
	if c.lock != nil {
		c.lock.Unlock() //nolint:errcheck // the process ends anyway
	}
}
