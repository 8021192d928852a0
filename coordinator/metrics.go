package coordinator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
)

// tally counts the jobs that have ended since the coordinator started.
type tally struct {
	jobs map[api.Status]int64
	// starts has how many of them found which workspace. needed and moved are the bytes
	// of those that were FULL.
	starts        map[start]int64
	needed, moved int64
}

// start is what a job found, and where its bytes were.
type start struct{ state, source string }

// add counts a job that has just ended, with the workspace of its last attempt.
func (c *tally) add(j *state.Job) {
	c.jobs[j.Status]++
	w := j.Workspace
	if w.State == "" {
		return // it was never given one
	}
	c.starts[start{
		oneOf(w.State, api.StateFull, api.StateFresh, api.StateOff),
		oneOf(w.Source, api.SourceLocal, api.SourceStore, api.SourceMixed, api.SourceNone),
	}]++
	if w.State == api.StateFull {
		c.needed += w.BytesNeeded
		c.moved += w.BytesMoved
	}
}

// oneOf bounds what a host's words can make of a label.
func oneOf(s string, words ...string) string {
	if slices.Contains(words, s) {
		return s
	}
	return "other"
}

// figures are in the text format of Prometheus, version 0.0.4.
type figures struct {
	text strings.Builder
	name string
}

// family begins the figures of one name. kind is gauge or counter.
func (f *figures) family(name, kind, help string) {
	f.name = "roost_" + name
	fmt.Fprintf(&f.text, "# HELP %s %s\n# TYPE %s %s\n", f.name, help, f.name, kind)
}

// one is a family of a single figure.
func (f *figures) one(name, kind, help string, v int64) {
	f.family(name, kind, help)
	f.add(v)
}

var labelText = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// add writes one figure of the family; labels are names and values in turns.
func (f *figures) add(v int64, labels ...string) {
	f.text.WriteString(f.name)
	for i := 0; i < len(labels); i += 2 {
		fmt.Fprintf(&f.text, `%c%s="%s"`, "{,"[min(i, 1)], labels[i], labelText.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		f.text.WriteByte('}')
	}
	fmt.Fprintf(&f.text, " %d\n", v)
}

// ofHosts is what is shown of each host.
var ofHosts = []struct {
	name, kind, help string
	of               func(*api.Host) int64
}{
	{"host_ready", "gauge", "1 while the coordinator hears of the host, 0 when it is lost or left.", func(h *api.Host) int64 {
		if h.State == api.HostReady {
			return 1
		}
		return 0
	}},
	{"host_seen_timestamp_seconds", "gauge", "When it was last heard of; 0: not since the coordinator's start.", func(h *api.Host) int64 { return h.SeenMS / 1000 }},
	{"host_slots", "gauge", "Jobs that it can run at once.", func(h *api.Host) int64 { return int64(h.Slots) }},
	{"host_jobs", "gauge", "Jobs that have a slot there.", func(h *api.Host) int64 { return int64(h.Running) }},
	{"host_snapshots", "gauge", "Snapshots that it holds.", func(h *api.Host) int64 { return int64(h.Snapshots) }},
	{"host_disk_free_bytes", "gauge", "Free space of its store's file system.", func(h *api.Host) int64 { return h.DiskFree }},
	{"host_disk_size_bytes", "gauge", "Size of its store's file system.", func(h *api.Host) int64 { return h.DiskTotal }},
	{"host_upload_queue_bytes", "gauge", "Bytes that it has not uploaded yet.", func(h *api.Host) int64 { return h.Queue }},
	{"host_evicted_layers_total", "counter", "Layers that went for want of room since its agent's start.", func(h *api.Host) int64 { return h.Evicted }},
	{"host_evicted_bytes_total", "counter", "Their bytes.", func(h *api.Host) int64 { return h.EvictedBytes }},
}

// metrics answers with the figures of the status page, for a monitoring system.
func (c *call) metrics() error {
	f := &figures{}
	f.family("info", "gauge", "1; the version is a label.")
	f.add(1, "version", c.s.o.Version)
	hosts := c.s.showHosts()
	for _, x := range ofHosts {
		f.family(x.name, x.kind, x.help)
		for i := range hosts {
			f.add(x.of(&hosts[i]), "host", hosts[i].Name)
		}
	}
	c.s.measure(f)
	c.w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	c.w.Write([]byte(f.text.String()))
	return nil
}

// measure adds what jobs do now and have done since the start.
func (s *Server) measure(f *figures) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	w, now := s.world, s.now().UnixMilli()
	jobs, oldest, running := map[api.Status]int64{}, now, int64(0)
	for _, j := range w.jobs {
		jobs[j.Status]++
		if j.Status == api.StatusQueued {
			oldest = min(oldest, j.QueuedMS)
		}
	}
	for _, p := range w.pipelines {
		if !p.Status.Ended() {
			running++
		}
	}
	f.one("pipelines", "gauge", "Pipelines that have not ended.", running)
	f.family("jobs", "gauge", "Jobs that have not ended, by status.")
	for _, st := range []api.Status{api.StatusPending, api.StatusQueued, api.StatusAssigned, api.StatusRunning} {
		f.add(jobs[st], "status", string(st))
	}
	f.one("queue_oldest_seconds", "gauge", "How long the job has waited for a host that waits for longest.", (now-oldest)/1000)
	f.family("jobs_ended_total", "counter", "Jobs that have ended since the coordinator's start, by status.")
	for _, st := range []api.Status{api.StatusSuccess, api.StatusFailed, api.StatusCanceled, api.StatusSkipped} {
		f.add(w.ended.jobs[st], "status", string(st))
	}
	f.family("workspaces_total", "counter", "What they started from: FULL, FRESH or OFF, and where its bytes were.")
	for _, st := range slices.SortedFunc(maps.Keys(w.ended.starts), func(a, b start) int {
		return cmp.Or(strings.Compare(a.state, b.state), strings.Compare(a.source, b.source))
	}) {
		f.add(w.ended.starts[st], "state", st.state, "source", st.source)
	}
	f.one("workspace_needed_bytes_total", "counter", "Bytes of the trees that FULL ones showed.", w.ended.needed)
	f.one("workspace_moved_bytes_total", "counter", "Bytes that were moved for them.", w.ended.moved)
}
