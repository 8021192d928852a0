package gitlab

import (
	"context"
	"fmt"
	"net/http"
	"slices"
)

// sendPrefix brings GitLab's trace up to the end of the prefix. It returns the
// answer that prevented it, if any.
func (j *job) sendPrefix(ctx context.Context) (*answer, error) {
	j.trace.mu.Lock()
	defer j.trace.mu.Unlock()
	return j.bring(ctx)
}

// bring makes GitLab have the prefix, and finds out what stands before it. Called with
// trace.mu held.
func (j *job) bring(ctx context.Context) (*answer, error) {
	t := &j.trace
	for range 6 { // GitLab tells its size once, perhaps twice if a call was answered late
		from := t.size
		if from < 0 {
			from = t.known
		}
		if t.size >= 0 && t.size < t.foreign { // it lost what nobody can send again
			if err := j.setForeign(t.size, t.prefix); err != nil {
				return nil, err
			}
		}
		if from >= t.end() {
			return nil, nil
		}
		data := t.prefix[from-t.foreign:]
		a, err := j.patch(ctx, from, data, "debug_trace=false", j.headers("text/plain"))
		switch {
		case err != nil:
			return nil, err
		case a.status == http.StatusRequestedRangeNotSatisfiable:
			if t.size > from && t.isForeign(t.size) {
				if err := j.setForeign(t.size, data); err != nil {
					return nil, err
				}
			}
		case a.status != http.StatusAccepted:
			return a, nil
		}
	}
	return nil, fmt.Errorf("job %s: GitLab does not take its trace", j.id)
}

// isForeign reports whether a size that GitLab names is neither ours nor the runner's.
func (t *trace) isForeign(size int64) bool { return !t.begun && !slices.Contains(t.doubts, size) }

// setForeign notes where our lines and the runner's part begin, durably if the job has a
// record, before anything of them is sent there.
func (j *job) setForeign(foreign int64, prefix []byte) error {
	t := &j.trace
	if !j.record().Handed.IsZero() {
		err := j.change(func(r *record) { r.Foreign, r.Prefix, r.Logged = foreign, prefix, foreign })
		if err != nil {
			return err
		}
	}
	t.foreign, t.prefix = foreign, prefix
	return nil
}

// fill makes GitLab have data at base and returns nil when it has; what it has already
// of it is not sent again. Called with trace.mu held.
func (j *job) fill(ctx context.Context, data []byte, base int64) (*answer, error) {
	t := &j.trace
	end := base + int64(len(data))
	for range 4 {
		from := max(t.size, base)
		if from >= end {
			return nil, nil
		}
		a, err := j.patch(ctx, from, data[from-base:], "debug_trace=false", j.headers("text/plain"))
		if err != nil {
			return nil, err
		}
		if a.status != http.StatusAccepted && a.status != http.StatusRequestedRangeNotSatisfiable {
			return a, nil
		}
		if t.size < base {
			return nil, errShort
		}
	}
	return nil, fmt.Errorf("job %s: GitLab does not take its trace", j.id)
}

// errShort: GitLab has less of the trace than what stands before.
var errShort = fmt.Errorf("the trace in GitLab is shorter than what was sent")

// patch sends bytes of the trace at an offset and learns GitLab's size. Called with
// trace.mu held.
func (j *job) patch(ctx context.Context, start int64, data []byte, query string, header http.Header) (*answer, error) {
	t := &j.trace
	header = header.Clone()
	header.Set("Content-Range", fmt.Sprintf("%d-%d", start, start+int64(len(data))-1))
	path := "api/v4/jobs/" + j.id + "/trace"
	a, err := j.s.up.do(ctx, http.MethodPatch, path, query, header, data)
	if err == nil && a.waits() && j.record().State != stateDelivering {
		// The runner's word that the job runs was lost on its way, and the job would be
		// given to somebody else.
		if err = j.acknowledge(ctx); err == nil {
			a, err = j.s.up.do(ctx, http.MethodPatch, path, query, header, data)
		}
	}
	if err != nil {
		t.size, t.doubts = -1, append(t.doubts, start+int64(len(data)))
		return nil, fmt.Errorf("job %s: trace: %w", j.id, err)
	}
	j.note(a)
	switch a.status {
	case http.StatusAccepted:
		t.size = start + int64(len(data))
		t.known, t.doubts = t.size, nil
	case http.StatusRequestedRangeNotSatisfiable:
		size, ok := parseRange(a.header.Get("Range"))
		if !ok {
			t.size = -1
			return nil, fmt.Errorf("job %s: trace: GitLab refused a range and named none", j.id)
		}
		t.size, t.known = size, size
	}
	return a, nil
}

// pass sends what the runner sent, shifted, and makes GitLab's answer one about the
// runner's part. If GitLab has not even our prefix, it gets that first.
func (j *job) pass(ctx context.Context, start int64, data []byte, query string, header http.Header, limit int64) (*answer, error) {
	t := &j.trace
	t.mu.Lock()
	defer t.mu.Unlock()
	for range 4 {
		if !t.begun || t.size >= 0 && t.size < t.end() {
			if a, err := j.bring(ctx); a != nil || err != nil {
				return a, err
			}
		}
		if !t.marked {
			if err := j.s.recs.mark(j.record().Attempt, markBegun); err != nil {
				return nil, err
			}
			t.marked = true
		}
		a, err := j.patch(ctx, start+t.end(), data, query, header)
		switch {
		case err != nil:
			return nil, err
		case a.status == http.StatusAccepted:
			t.begun = true
		case a.status == http.StatusRequestedRangeNotSatisfiable && t.size < t.end():
			continue
		case a.status == http.StatusRequestedRangeNotSatisfiable && start == 0 && t.size > t.end() && t.isForeign(t.size):
			if err := j.setForeign(t.size, nil); err != nil {
				return nil, err
			}
			continue
		case a.status == http.StatusRequestedRangeNotSatisfiable && t.size > t.end():
			t.begun = true // a piece whose answer was lost
		}
		a.shift(t.end(), limit)
		return a, nil
	}
	return nil, fmt.Errorf("job %s: GitLab does not take its trace", j.id)
}
