package affinity

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// world draws a fleet in which everything that can go wrong does.
func world(t *rapid.T) Fleet {
	snap := rapid.Custom(func(t *rapid.T) snapshot.ID {
		return snapshot.ID(fmt.Sprint("s", rapid.IntRange(0, 12).Draw(t, "snapshot")))
	})
	// Each snapshot stands on one with a higher number, or on nothing.
	layers, base := map[snapshot.ID]Layer{}, map[snapshot.ID]snapshot.ID{}
	for i := range 13 {
		id := snapshot.ID(fmt.Sprint("s", i))
		layers[id] = Layer{ID: id, Bytes: rapid.Int64Range(0, 1<<34).Draw(t, "bytes"), Durable: rapid.Bool().Draw(t, "durable")}
		if rapid.Bool().Draw(t, "more") {
			l := layers[id]
			l.Index, l.Tree = rapid.Int64Range(0, 9).Draw(t, "index"), rapid.Int64Range(0, 1<<34).Draw(t, "tree")
			l.Beside = []Chain{{{ID: snap.Draw(t, "beside"), Bytes: rapid.Int64Range(0, 1<<34).Draw(t, "there")}}}
			layers[id] = l
		}
		if on := rapid.IntRange(i+1, 20).Draw(t, "base"); on < 13 {
			base[id] = snapshot.ID(fmt.Sprint("s", on))
		}
	}
	tags := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"linux", "gpu", "big"}), 0, 3, rapid.ID[string])
	chain := rapid.Custom(func(t *rapid.T) Chain {
		var c Chain
		for id := snap.Draw(t, "top"); id != ""; id = base[id] {
			c = append(c, layers[id])
		}
		return c
	})
	f := Fleet{Running: map[string]int{"p": rapid.IntRange(0, 9).Draw(t, "running")}}
	for i := range rapid.IntRange(0, 6).Draw(t, "hosts") {
		h := Host{
			Name: fmt.Sprint("h", i), Fingerprint: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "fingerprint"),
			Tags: tags.Draw(t, "tags"), Slots: rapid.IntRange(0, 4).Draw(t, "slots"), Has: map[snapshot.ID]bool{},
			Coming: map[snapshot.ID]float64{}, Rate: rapid.SampledFrom([]float64{0, 1e6, 1e9}).Draw(t, "rate"),
		}
		h.Free = rapid.IntRange(0, h.Slots).Draw(t, "free")
		for range h.Slots - h.Free {
			h.Residual = append(h.Residual, rapid.Float64Range(0, 1000).Draw(t, "residual"))
		}
		for _, id := range rapid.SliceOfN(snap, 0, 6).Draw(t, "has") {
			h.Has[id] = true
		}
		for _, id := range rapid.SliceOfN(snap, 0, 2).Draw(t, "coming") {
			h.Coming[id] = rapid.Float64Range(0.1, 100).Draw(t, "eta")
		}
		for _, id := range rapid.SliceOfN(snap, 0, 3).Draw(t, "parts") {
			if h.Parts == nil {
				h.Parts = map[snapshot.ID][]Part{}
			}
			h.Parts[id] = append(h.Parts[id], Part{With: snap.Draw(t, "with"), Bytes: rapid.Int64Range(0, 1<<34).Draw(t, "part"), After: rapid.Float64Range(0, 9).Draw(t, "after")})
		}
		if rapid.IntRange(0, 4).Draw(t, "off") == 0 {
			h.Off = "lost"
		}
		f.Hosts = append(f.Hosts, h)
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "jobs") {
		j := Job{
			ID: fmt.Sprint("j", i), Project: rapid.SampledFrom([]string{"p", "q"}).Draw(t, "project"),
			Pipeline: rapid.Int64Range(1, 4).Draw(t, "pipeline"), Index: i, Tags: tags.Draw(t, "wants"),
			Waited: rapid.SampledFrom([]float64{0, 1, 100, 1e9}).Draw(t, "waited"),
		}
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			j.Inputs = rapid.SliceOfN(chain, 1, 3).Draw(t, "inputs")
		case 1:
			j.Seeds = map[string][]Chain{"x": rapid.SliceOfN(chain, 1, 2).Draw(t, "seeds")}
		}
		for h := range f.Hosts {
			if rapid.IntRange(0, 5).Draw(t, "avoid") == 0 {
				j.Avoid = append(j.Avoid, f.Hosts[h].Name)
			}
		}
		f.Jobs = append(f.Jobs, j)
	}
	return f
}

// canRun says by the plainest words possible whether a host may run a job.
func canRun(h *Host, j *Job) bool {
	if h.Off != "" || !hasAll(h.Tags, j.Tags) {
		return false
	}
	for _, c := range j.Inputs {
		for _, l := range c {
			_, coming := h.Coming[l.ID]
			if h.Has[l.ID] || coming {
				break
			}
			if !l.Durable {
				return false
			}
		}
	}
	return true
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := world(t)
		before := clone(f)
		d := Decide(f)
		require.True(t, reflect.DeepEqual(before, f), "the fleet is not changed")
		require.True(t, reflect.DeepEqual(d, Decide(f)), "the same fleet gives the same decision")
		shuffled := clone(f)
		r := rand.New(rand.NewPCG(1, 2))
		r.Shuffle(len(shuffled.Jobs), func(a, b int) { shuffled.Jobs[a], shuffled.Jobs[b] = shuffled.Jobs[b], shuffled.Jobs[a] })
		require.Equal(t, d, Decide(shuffled), "the order of the jobs does not matter")

		hosts, jobs := map[string]*Host{}, map[string]*Job{}
		for i := range f.Hosts {
			hosts[f.Hosts[i].Name] = &f.Hosts[i]
		}
		for i := range f.Jobs {
			jobs[f.Jobs[i].ID] = &f.Jobs[i]
		}
		seen, taken := map[string]bool{}, map[string]int{}
		for _, a := range d.Assign {
			h, j := hosts[a.Host], jobs[a.Job]
			require.False(t, seen[a.Job], "%s is decided twice", a.Job)
			seen[a.Job] = true
			taken[a.Host]++
			require.LessOrEqual(t, taken[a.Host], h.Free, "%s has more than its slots", a.Host)
			require.True(t, canRun(h, j), "%s can't run %s", a.Host, a.Job)
			require.NotEmpty(t, a.Reason)
			require.Equal(t, a.Host, a.Candidates[0].Host, "the chosen one is listed first")
			if slices.Contains(j.Avoid, a.Host) {
				for _, o := range hosts {
					require.False(t, canRun(o, j) && !slices.Contains(j.Avoid, o.Name), "%s would have been another host", o.Name)
				}
			}
			if a.Code == Continuation {
				require.Zero(t, a.Missing)
			}
		}
		for _, w := range d.Wait {
			require.False(t, seen[w.Job], "%s is decided twice", w.Job)
			seen[w.Job] = true
			require.NotEmpty(t, w.Reason)
			require.NotEmpty(t, w.Code)
			j := jobs[w.Job]
			if j.Waited < f.Bound() {
				continue
			}
			for _, h := range hosts {
				if canRun(h, j) && !slices.Contains(j.Avoid, h.Name) {
					require.Equal(t, h.Free, taken[h.Name], "%s is past its bound and %s is free", w.Job, h.Name)
				}
			}
		}
		require.Len(t, seen, len(f.Jobs), "every job is decided")
	})
}

func clone(f Fleet) Fleet {
	f.Hosts, f.Jobs, f.Running = slices.Clone(f.Hosts), slices.Clone(f.Jobs), maps.Clone(f.Running)
	for i := range f.Hosts {
		h := &f.Hosts[i]
		h.Has, h.Coming, h.Residual = maps.Clone(h.Has), maps.Clone(h.Coming), slices.Clone(h.Residual)
	}
	return f
}

// In a cluster that is kept overloaded with jobs that all want one host, nobody
// waits longer than the bound while another host stands free.
func TestNoStarvation(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	type run struct {
		host string
		ends float64
	}
	hosts := []string{"a", "b", "c"}
	var queue []Job
	since := map[string]float64{}
	var running []run
	n, worst := 0, 0.0
	for now := 0.0; now < 20_000; now++ {
		running = slices.DeleteFunc(running, func(x run) bool { return x.ends <= now })
		if r.Float64() < 0.02 {
			n++
			queue = append(queue, Job{ID: fmt.Sprint(n), Project: "p", Pipeline: int64(n), Inputs: on("s", 40*gib)})
		}
		f := Fleet{Jobs: slices.Clone(queue)}
		for i := range f.Jobs {
			if s, ok := since[f.Jobs[i].ID]; ok {
				f.Jobs[i].Waited = now - s
			}
		}
		for _, name := range hosts {
			h := Host{Name: name, Slots: 1, Free: 1}
			if name == "a" {
				h.Has = has("s")
			}
			for _, x := range running {
				if x.host == name {
					h.Free--
					h.Residual = append(h.Residual, x.ends-now)
				}
			}
			f.Hosts = append(f.Hosts, h)
		}
		bound := f.Bound()
		d := Decide(f)
		for _, a := range d.Assign {
			running = append(running, run{a.Host, now + a.Seconds + 40 + 80*r.Float64()})
			queue = slices.DeleteFunc(queue, func(j Job) bool { return j.ID == a.Job })
		}
		for _, w := range d.Wait {
			if _, ok := since[w.Job]; !ok && w.Code == WaitHolder {
				since[w.Job] = now
			}
			if w.Code == WaitHolder {
				worst = max(worst, now-since[w.Job]-bound)
			}
		}
	}
	require.Greater(t, n, 200)
	require.LessOrEqual(t, worst, 1.0, "seconds past the bound beside a free host")
}

// BenchmarkDecide measures a decision on a busy cluster.
func BenchmarkDecide(b *testing.B) {
	for _, size := range []struct{ hosts, jobs int }{{10, 50}, {100, 500}, {1000, 2000}} {
		b.Run(fmt.Sprintf("%dx%d", size.hosts, size.jobs), func(b *testing.B) {
			r := rand.New(rand.NewPCG(3, 4))
			f := Fleet{}
			for i := range size.hosts {
				h := Host{Name: fmt.Sprintf("h%05d", i), Slots: 4, Free: r.IntN(2), Has: map[snapshot.ID]bool{}, Residual: []float64{9, 50, 100}}
				for range 50 {
					h.Has[snapshot.ID(fmt.Sprint("s", r.IntN(size.hosts*20)))] = true
				}
				f.Hosts = append(f.Hosts, h)
			}
			for i := range size.jobs {
				f.Jobs = append(f.Jobs, Job{
					ID: fmt.Sprint(i), Project: fmt.Sprint("p", i%10), Pipeline: int64(i / 10), Index: i,
					Inputs: on(snapshot.ID(fmt.Sprint("s", r.IntN(size.hosts*20))), 1<<30),
				})
			}
			for b.Loop() {
				Decide(f)
			}
		})
	}
}
