package affinity

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

func has(ids ...snapshot.ID) map[snapshot.ID]bool {
	m := map[snapshot.ID]bool{}
	for _, id := range ids {
		m[id] = true
	}
	return m
}

// on makes a chain of one durable layer of n bytes.
func on(id snapshot.ID, n int64) []Chain { return []Chain{{{ID: id, Bytes: n, Durable: true}}} }

// local makes a chain of one layer that only its holders have.
func local(id snapshot.ID) []Chain { return []Chain{{{ID: id, Bytes: 1}}} }

const gib = 1 << 30

// decision is a case of TestDecide. The only job is "j"; want is host:code, or the code
// of its wait.
type decision struct {
	name  string
	hosts []Host
	job   Job
	want  string
	also  func(t *testing.T, d Decision)
}

var decisions = []decision{
	{
		name:  "on the host that has everything",
		hosts: []Host{{Name: "a", Slots: 4, Free: 4}, {Name: "b", Slots: 4, Free: 1, Has: has("s")}},
		job:   Job{Inputs: on("s", 1)}, want: "b:continuation",
	},
	{
		name:  "among two holders on the emptier one",
		hosts: []Host{{Name: "a", Slots: 4, Free: 1, Has: has("s")}, {Name: "b", Slots: 4, Free: 3, Has: has("s")}},
		job:   Job{Inputs: on("s", 1)}, want: "b:continuation",
	},
	{
		name:  "nothing to move: the emptiest",
		hosts: []Host{{Name: "a", Slots: 4, Free: 1}, {Name: "b", Slots: 4, Free: 3}},
		want:  "b:no-input",
	},
	{
		name:  "a pool's job stays in its pool",
		hosts: []Host{{Name: "a", Slots: 4, Free: 4, Has: has("s")}, {Name: "b", Slots: 1, Free: 1, Pool: "p"}, {Name: "c", Slots: 4, Free: 4, Pool: "q"}},
		job:   Job{Inputs: on("s", 1), Pool: "p"}, want: "b:only-host",
		also: func(t *testing.T, d Decision) {
			require.Equal(t, "has no runners of pool p", d.Assign[0].Candidates[1].Excluded)
			require.Equal(t, "takes only jobs of pool q", d.Assign[0].Candidates[2].Excluded)
		},
	},
	{
		name:  "a host with a pool takes nothing else",
		hosts: []Host{{Name: "b", Slots: 1, Free: 1, Pool: "p", Has: has("s")}},
		job:   Job{Inputs: on("s", 1)}, want: "wait-host",
	},
	{
		name:  "a pool without hosts",
		hosts: []Host{{Name: "a", Slots: 4, Free: 4}},
		job:   Job{Pool: "p"}, want: "wait-host",
		also: func(t *testing.T, d Decision) { require.Equal(t, "no host of pool p is there", d.Wait[0].Reason) },
	},
	{
		name:  "a job's own bound is over sooner",
		hosts: []Host{{Name: "a", Slots: 1, Has: has("s"), Residual: []float64{5}}, {Name: "b", Slots: 1, Free: 1}},
		// One job in the queue of two slots adds 4 * 60 / 2.
		job: Job{Inputs: on("s", 2<<30), MaxWait: 10, Waited: 131}, want: "b:overdue",
	},
	{
		name:  "a job's own bound is not over yet",
		hosts: []Host{{Name: "a", Slots: 1, Has: has("s"), Residual: []float64{5}}, {Name: "b", Slots: 1, Free: 1}},
		job:   Job{Inputs: on("s", 2<<30), MaxWait: 10, Waited: 129}, want: "wait-holder",
	},
	{
		name:  "a small fetch beats a long wait",
		hosts: []Host{{Name: "a", Slots: 1, Has: has("s"), Residual: []float64{300}}, {Name: "b", Slots: 1, Free: 1}},
		job:   Job{Inputs: on("s", 1<<20)}, want: "b:cheapest",
		also: func(t *testing.T, d Decision) { require.Equal(t, int64(1<<20), d.Assign[0].Missing) },
	},
	{
		name:  "a short wait beats a large fetch",
		hosts: []Host{{Name: "a", Slots: 1, Has: has("s"), Residual: []float64{5}}, {Name: "b", Slots: 1, Free: 1}},
		job:   Job{Inputs: on("s", 10*gib)}, want: "wait-holder",
		also: func(t *testing.T, d Decision) {
			require.Positive(t, d.Again)
			require.Contains(t, d.Wait[0].Reason, "a has its files and a slot in about 5.0 s")
			require.Contains(t, d.Wait[0].Reason, "10.0 GiB")
		},
	},
	{
		name:  "but not for ever",
		hosts: []Host{{Name: "a", Slots: 1, Has: has("s"), Residual: []float64{5}}, {Name: "b", Slots: 1, Free: 1}},
		job:   Job{Inputs: on("s", 10*gib), Waited: 1e6}, want: "b:overdue",
	},
	{
		name:  "only a layer that is missing counts",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Has: has("base")}, {Name: "b", Slots: 1, Free: 1}},
		job: Job{Inputs: []Chain{{
			{ID: "top", Bytes: 10, Durable: true}, {ID: "base", Bytes: gib, Durable: true},
		}}}, want: "a:cheapest",
		also: func(t *testing.T, d Decision) { require.Equal(t, int64(10), d.Assign[0].Missing) },
	},
	{
		name:  "a layer of two inputs moves once",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1}},
		job: Job{Inputs: []Chain{
			{{ID: "x", Bytes: 1, Durable: true}, {ID: "base", Bytes: 100, Durable: true}},
			{{ID: "y", Bytes: 2, Durable: true}, {ID: "base", Bytes: 100, Durable: true}},
		}}, want: "a:only-host",
		also: func(t *testing.T, d Decision) { require.Equal(t, int64(103), d.Assign[0].Missing) },
	},
	{
		name:  "what is under way is not moved again",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Coming: map[snapshot.ID]float64{"s": 2}}, {Name: "b", Slots: 1, Free: 1}},
		job:   Job{Inputs: on("s", gib)}, want: "a:cheapest",
		also: func(t *testing.T, d Decision) {
			require.Zero(t, d.Assign[0].Missing)
			require.InDelta(t, 2, d.Assign[0].Seconds, 0.5)
		},
	},
	{
		name:  "files that are not uploaded",
		hosts: []Host{{Name: "a", Slots: 1, Has: has("s"), Residual: []float64{9}}, {Name: "b", Slots: 1, Free: 1}},
		job:   Job{Inputs: local("s")}, want: "wait-upload",
		also: func(t *testing.T, d Decision) {
			require.Equal(t, []snapshot.ID{"s"}, d.Wait[0].Urgent)
			require.Contains(t, d.Wait[0].Reason, "b could run it but lacks")
		},
	},
	{
		name:  "two inputs that no host has both of",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Has: has("x")}, {Name: "b", Slots: 1, Free: 1, Has: has("y")}},
		job:   Job{Inputs: append(local("x"), local("y")...)}, want: "wait-upload",
		also: func(t *testing.T, d Decision) { require.Equal(t, []snapshot.ID{"x", "y"}, d.Wait[0].Urgent) },
	},
	{
		name:  "all full",
		hosts: []Host{{Name: "a", Slots: 1, Residual: []float64{9}}},
		want:  "wait-slot",
	},
	{
		name:  "no host has the tags",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Tags: []string{"linux"}}},
		job:   Job{Tags: []string{"gpu", "linux"}}, want: "wait-host",
		also: func(t *testing.T, d Decision) {
			require.Contains(t, d.Wait[0].Reason, "gpu, linux")
			require.Equal(t, "lacks the tags gpu", d.Wait[0].Candidates[0].Excluded)
		},
	},
	{
		name:  "hosts that are off",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Off: "lost"}},
		want:  "wait-host",
		also:  func(t *testing.T, d Decision) { require.Contains(t, d.Wait[0].Reason, "a is lost") },
	},
	{
		name:  "no host at all",
		hosts: nil, want: "wait-host",
	},
	{
		name:  "not where it failed before",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Has: has("s")}, {Name: "b", Slots: 1, Free: 1}},
		job:   Job{Inputs: on("s", 1), Avoid: []string{"a"}}, want: "b:only-host",
		also: func(t *testing.T, d Decision) {
			require.Equal(t, "failed this job before", d.Assign[0].Candidates[1].Excluded)
		},
	},
	{
		name:  "where it failed before, if there is no other",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Has: has("s")}, {Name: "b", Slots: 1, Free: 1, Off: "lost"}},
		job:   Job{Inputs: on("s", 1), Avoid: []string{"a"}}, want: "a:continuation",
	},
	{
		name: "the seed of the right platform",
		hosts: []Host{
			{Name: "a", Slots: 1, Free: 1, Fingerprint: "mac", Has: has("s")},
			{Name: "b", Slots: 2, Free: 1, Fingerprint: "linux", Has: has("s")},
		},
		job: Job{Seeds: map[string][]Chain{"linux": local("s")}}, want: "b:continuation",
		also: func(t *testing.T, d Decision) { require.Equal(t, snapshot.ID("s"), d.Assign[0].Seed) },
	},
	{
		name:  "a seed that can't be had",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Fingerprint: "linux"}},
		job:   Job{Seeds: map[string][]Chain{"linux": local("s")}}, want: "a:only-host",
		also: func(t *testing.T, d Decision) { require.Empty(t, d.Assign[0].Seed) },
	},
	{
		name:  "a seed that is too large to be worth it",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Fingerprint: "linux", Rate: 1e6}},
		job:   Job{Seeds: map[string][]Chain{"linux": on("s", 10*gib)}}, want: "a:only-host",
		also: func(t *testing.T, d Decision) { require.Empty(t, d.Assign[0].Seed) },
	},
	{
		name:  "an older seed that is there before a newer one that is not",
		hosts: []Host{{Name: "a", Slots: 1, Free: 1, Fingerprint: "linux", Has: has("old")}},
		job:   Job{Seeds: map[string][]Chain{"linux": append(on("new", 1), on("old", 1)...)}}, want: "a:continuation",
		also: func(t *testing.T, d Decision) { require.Equal(t, snapshot.ID("old"), d.Assign[0].Seed) },
	},
}

func TestDecide(t *testing.T) {
	for _, c := range decisions {
		t.Run(c.name, func(t *testing.T) {
			c.job.ID = "j"
			d := Decide(Fleet{Hosts: c.hosts, Jobs: []Job{c.job}})
			require.Equal(t, c.want, summary(d))
			if c.also != nil {
				c.also(t, d)
			}
		})
	}
}

func summary(d Decision) string {
	if len(d.Assign) == 1 && len(d.Wait) == 0 {
		return d.Assign[0].Host + ":" + string(d.Assign[0].Code)
	}
	if len(d.Wait) == 1 && len(d.Assign) == 0 {
		return string(d.Wait[0].Code)
	}
	return fmt.Sprintf("%d assigned, %d waiting", len(d.Assign), len(d.Wait))
}

// The order is fair between projects and keeps to age within one.
func TestFair(t *testing.T) {
	f := Fleet{Running: map[string]int{"big": 2}}
	for i := range 4 {
		f.Jobs = append(f.Jobs, Job{ID: fmt.Sprint("b", i), Project: "big", Pipeline: 1, Index: i})
	}
	f.Jobs = append(f.Jobs,
		Job{ID: "s2", Project: "small", Pipeline: 9}, Job{ID: "s1", Project: "small", Pipeline: 8, Index: 3},
		Job{ID: "s3", Project: "small", Pipeline: 10})
	var got []string
	for _, i := range fair(&f) {
		got = append(got, f.Jobs[i].ID)
	}
	require.Equal(t, []string{"s1", "s2", "b0", "s3", "b1", "b2", "b3"}, got)
}

// A job that continues goes before one that would have to fetch, even if that is
// older; the slot is worth more to it.
func TestContinuationsFirst(t *testing.T) {
	d := Decide(Fleet{
		Hosts: []Host{{Name: "a", Slots: 1, Free: 1, Has: has("s")}},
		Jobs: []Job{
			{ID: "old", Pipeline: 1, Inputs: on("far", gib)},
			{ID: "new", Pipeline: 2, Inputs: on("s", 1)},
		},
	})
	require.Equal(t, "new", d.Assign[0].Job)
	require.Len(t, d.Wait, 1)
	// Past the bound the older one's turn has come.
	d = Decide(Fleet{
		Hosts: []Host{{Name: "a", Slots: 1, Free: 1, Has: has("s")}},
		Jobs: []Job{
			{ID: "old", Pipeline: 1, Inputs: on("far", gib), Waited: 1e4},
			{ID: "new", Pipeline: 2, Inputs: on("s", 1)},
		},
	})
	require.Equal(t, "old", d.Assign[0].Job)
}
