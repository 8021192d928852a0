package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// ledger is what the hosts of a stress run saw, to compare with what the
// coordinator says in the end.
type ledger struct {
	mu sync.Mutex
	// begun counts the starts under each (job, epoch): never more than one.
	begun map[string]int
	// told are the outputs whose finish was answered with yes, by job.
	told map[string][]snapshot.ID
	// inputs are what each job was given, which must never change.
	inputs map[string]string
	faults []string
}

func (l *ledger) fault(format string, args ...any) {
	l.faults = append(l.faults, fmt.Sprintf(format, args...))
}

func (l *ledger) begin(c api.Claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	job := c.Pipeline + "/" + c.Job.Name
	key := fmt.Sprintf("%s epoch %d", job, c.Epoch)
	l.begun[key]++
	if l.begun[key] > 1 {
		l.fault("%s began twice", key)
	}
	in := fmt.Sprint(ids(c))
	if was, ok := l.inputs[job]; ok && was != in {
		l.fault("%s was given %s, then %s", job, was, in)
	}
	l.inputs[job] = in
}

// worker is one host's loop: it takes jobs, fails some of them, forgets some, and
// repeats every call whose answer it did not get.
type worker struct {
	t      *testing.T
	b      *bench
	led    *ledger
	r      *rand.Rand
	reg    api.Register
	client func() *api.Client
	holds  []api.Holding
}

func (w *worker) loop(ctx context.Context) {
	for ctx.Err() == nil {
		w.reg.Holdings = w.holds
		reg, err := w.client().Register(ctx, w.reg)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		for ctx.Err() == nil {
			cs, err := w.client().Claims(ctx, reg.Agent, api.ClaimRequest{Session: w.reg.Session, FreeSlots: 1, WaitMS: 200})
			if err != nil {
				break // register again
			}
			for _, c := range cs.Claims {
				w.job(ctx, c)
			}
		}
	}
}

// repeat makes a call until it is answered.
func repeat(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || !api.Unreachable(err) || ctx.Err() != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *worker) job(ctx context.Context, c api.Claim) {
	if w.r.IntN(20) == 0 {
		return // it never got the claim
	}
	if repeat(ctx, func() error { return w.client().Accept(ctx, ref(c)) }) != nil {
		return
	}
	w.led.begin(c)
	if repeat(ctx, func() error { return w.client().Start(ctx, ref(c), api.Start{}) }) != nil {
		return
	}
	if w.r.IntN(12) == 0 {
		// The agent dies and comes back without the job.
		w.reg.Session = newID(w.t)
		return
	}
	f := api.Finish{Status: api.StatusSuccess, Output: newID(w.t), RunMS: 1, Bytes: 1}
	f.Parents = ids(c)
	if w.r.IntN(10) == 0 {
		f = api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: api.FailAdapter, Reason: "stress"}
	}
	var got *api.Finished
	err := repeat(ctx, func() (err error) {
		got, err = w.client().Finish(ctx, ref(c), f)
		return err
	})
	if err != nil || !got.Output {
		return
	}
	w.holds = append(w.holds, api.Holding{ID: f.Output, Bytes: 1})
	l := api.LayerRef{ID: f.Output, Durable: true, StoredBytes: 1, Index: snapshot.Digest{1}, Manifest: snapshot.Digest{1}}
	if err := repeat(ctx, func() error { return w.client().PutSnapshot(ctx, l) }); err != nil && ctx.Err() == nil {
		w.led.mu.Lock()
		w.led.fault("facts of %s: %v", f.Output, err)
		w.led.mu.Unlock()
	}
	w.led.mu.Lock()
	w.led.told[c.Pipeline+"/"+c.Job.Name] = append(w.led.told[c.Pipeline+"/"+c.Job.Name], f.Output)
	w.led.mu.Unlock()
}

// Many hosts, many pipelines, and a coordinator that goes away and comes back:
// nothing acknowledged is lost, no epoch runs twice, every job ends, and its output
// is the one that its host was told it would be.
func TestStress(t *testing.T) {
	b := newBench(t, func(o *Options) {
		o.Now, o.AcceptTimeout, o.HostLease, o.MaxInfraRetries = time.Now, time.Second, 5*time.Second, 50
	})
	led := &ledger{begun: map[string]int{}, told: map[string][]snapshot.ID{}, inputs: map[string]string{}}
	var mu sync.Mutex
	agent := b.client(agentToken)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range 8 {
		w := &worker{t: t, b: b, led: led, r: rand.New(rand.NewPCG(1, uint64(i))), client: func() *api.Client {
			mu.Lock()
			defer mu.Unlock()
			return agent
		}, reg: api.Register{
			Name: fmt.Sprint("h", i), StoreID: newID(t), Session: newID(t), Slots: 1, Fingerprint: "x",
		}}
		wg.Go(func() { w.loop(ctx) })
	}
	const n = 12
	for i := range n {
		b.submit(`
stages: [one, two, three]
build: {stage: one, script: x}
unit: {stage: two, script: x, parallel: 4}
lint: {stage: two, script: x, needs: []}
pack: {stage: three, script: x}
`)
		if i%4 == 3 {
			b.restart()
			mu.Lock()
			agent = b.client(agentToken)
			mu.Unlock()
		}
	}
	require.Eventually(t, func() bool {
		for i := range n {
			p, err := b.user.Pipeline(t.Context(), fmt.Sprint(i+1))
			if err != nil || !p.Status.Ended() {
				return false
			}
		}
		return true
	}, 5*time.Minute, 50*time.Millisecond)
	cancel()
	wg.Wait()
	require.Empty(t, led.faults)
	for i := range n {
		p, err := b.user.Pipeline(t.Context(), fmt.Sprint(i+1))
		require.NoError(t, err)
		require.Equal(t, api.StatusSuccess, p.Status)
		for _, j := range p.Jobs {
			require.Equal(t, api.StatusSuccess, j.Status, "%s: %s", j.Name, j.Reason)
			told := led.told[p.ID+"/"+j.Name]
			if len(told) == 1 {
				require.Equal(t, told[0], j.Workspace.Output, j.Name)
			}
			require.LessOrEqual(t, len(told), 1, "%s has one output", j.Name)
		}
		es, err := b.user.Events(t.Context(), p.ID, 0, 0)
		require.NoError(t, err)
		for k, e := range es {
			require.Equal(t, int64(k+1), e.Seq)
		}
	}
	require.False(t, errors.Is(ctx.Err(), context.DeadlineExceeded))
}
