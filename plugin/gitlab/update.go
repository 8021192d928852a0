package gitlab

import (
	"context"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/roost-ci/roost/plugin"
)

// jobCall serves a call about a job. Its token is all that it has to show, and is
// looked up in the job's record.
func (s *service) jobCall(w http.ResponseWriter, r *http.Request, rt route) {
	if rt.call == callArtifactsGet {
		s.download(w, r, rt)
		return
	}
	j := s.authorized(r, rt)
	if j == nil {
		refuse(w, http.StatusForbidden, "no such job here, or not its token")
		return
	}
	defer j.begin()()
	rec := j.record()
	switch {
	case rec.State == stateLost:
		j.mu.Lock()
		if j.told.IsZero() {
			j.told = s.now()
		}
		j.mu.Unlock()
		s.lostCall(w, r, j, rt)
		return
	case rec.State == stateDone || rec.State == stateEnding && (rec.Final.Quiet || !rec.Final.Own):
		s.endedCall(w, r, rec, rt)
		return
	}
	if err := j.ack(); err != nil {
		// Not durable yet that the runner has it: after a crash it would be given to
		// somebody else too. The runner tries again.
		s.log.Error("a job's record can't be written", "job", j.id, "error", err)
		refuse(w, http.StatusServiceUnavailable, "the record of the job can't be written")
		return
	}
	switch rt.call {
	case callUpdate:
		s.update(w, r, j)
	case callTrace:
		s.patch(w, r, j)
	default:
		s.stream(w, r, rt, j)
	}
}

// authorized is the job of a call, if the call has its token and its slot's path.
func (s *service) authorized(r *http.Request, rt route) *job {
	s.mu.Lock()
	j := s.jobs[rt.job]
	s.mu.Unlock()
	token := tokenOf(r)
	if j == nil || !j.holds(token) {
		return nil
	}
	r.Header.Set("Job-Token", token)
	r.Header.Del("Private-Token")
	// A redirect within the runner loses the path's prefix, so that it may be missing.
	if rt.slot != 0 && rt.slot != j.record().Slot {
		return nil
	}
	return j
}

// tokenOf is the token of a job's call. Runners before 18 send it with updates under
// another name.
func tokenOf(r *http.Request) string {
	if t := r.Header.Get("Job-Token"); t != "" {
		return t
	}
	return r.Header.Get("Private-Token")
}

// lostCall tells a runner to stop. Its last update is the sign that it has.
func (s *service) lostCall(w http.ResponseWriter, r *http.Request, j *job, rt route) {
	if rt.call == callUpdate {
		if body, err := readObject(r.Body); err == nil && isFinal(body) {
			j.stopped("its runner has stopped")
		}
	}
	w.Header().Set("Job-Status", "canceled")
	refuse(w, http.StatusForbidden, "the job is not this host's any more")
}

// endedCall answers for a job that has ended: a runner that tells its own end again gets
// GitLab's answer again, and any other call what GitLab would say.
func (s *service) endedCall(w http.ResponseWriter, r *http.Request, rec record, rt route) {
	a := rec.Final.answer()
	if rt.call == callUpdate && rec.Final.Own && rec.State == stateDone {
		if body, err := readObject(r.Body); err == nil && isFinal(body) {
			a.write(w)
			return
		}
	}
	job := a.jobStatus()
	switch {
	case job != "":
	case rec.Final.Quiet:
		job = "canceled"
	default:
		job = "failed"
	}
	w.Header().Set("Job-Status", job)
	refuse(w, http.StatusForbidden, "the job has ended")
}

// update is PUT jobs/:id.
func (s *service) update(w http.ResponseWriter, r *http.Request, j *job) {
	body, err := readObject(r.Body)
	if err != nil {
		refuse(w, http.StatusBadRequest, "the update is not a JSON object")
		return
	}
	if isFinal(body) {
		s.final(w, r, j, body)
		return
	}
	_, _, touch := counted(body) // the runner's first word knows of no log yet
	prefix, foreign, _ := j.trace.lines()
	j.count(&body, prefix, foreign, nil)
	a, err := s.up.do(j.ctx, http.MethodPut, "api/v4/jobs/"+j.id, "", cleanHeader(r.Header), body.bytes())
	if err != nil {
		s.failed(w, r, j, err)
		return
	}
	j.note(a)
	// A runner that GitLab did not answer says it again: that is its first word then.
	first := (a.status < 300 || a.over()) && j.first()
	if first && a.over() {
		// The runner drops such a job without another word.
		j.end(final{Quiet: true, Outcome: plugin.OutcomeCanceled, Reason: "canceled before it began", Answered: true, Status: a.status, JobStatus: a.jobStatus()})
	}
	if first && !touch && a.jobStatus() == "canceling" {
		// Runners of 18 drop such a job without another word, those after them report it.
		// So no runner begins it, and GitLab hears of its end from us.
		j.end(final{Outcome: plugin.OutcomeCanceled, Reason: "canceled before it began"})
		w.Header().Set("Job-Status", "canceled")
		refuse(w, http.StatusForbidden, "the job is canceled")
		return
	}
	if first && a.status == http.StatusOK {
		// People see at once what their job starts from; its runner has nothing to say yet.
		s.spawn(func(context.Context) { j.sendPrefix(j.ctx) }) //nolint:errcheck // before the runner's first byte it is tried again
	}
	a.write(w)
}

// first reports, once in the process's life, that this is the first update that GitLab took
// or refused for good.
func (j *job) first() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	first := !j.updated
	j.updated = true
	return first
}

// isCanceled reports whether GitLab said that the job is over, or is to be.
func (j *job) isCanceled() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.canceled != ""
}

// patch is PATCH jobs/:id/trace.
func (s *service) patch(w http.ResponseWriter, r *http.Request, j *job) {
	data, err := readBody(r.Body)
	if err != nil {
		refuse(w, http.StatusBadRequest, "the piece of trace can't be read")
		return
	}
	start, ok := parseContentRange(r.Header.Get("Content-Range"), len(data))
	if !ok {
		refuse(w, http.StatusBadRequest, "Content-Range: want <first>-<last> of the body")
		return
	}
	limit := int64(-1)
	if fin := j.record().Final; fin != nil && fin.Counted {
		limit = fin.Size
	}
	a, err := j.pass(j.ctx, start, data, r.URL.RawQuery, cleanHeader(r.Header), limit)
	if err != nil {
		s.failed(w, r, j, err)
		return
	}
	a.write(w)
}

// failed answers a call that GitLab did not answer: the runner tries again. If the job was lost
// meanwhile it is told so.
func (s *service) failed(w http.ResponseWriter, r *http.Request, j *job, err error) {
	if j.ctx.Err() != nil && s.life.Err() == nil {
		w.Header().Set("Job-Status", "canceled")
		refuse(w, http.StatusForbidden, "the job is not this host's any more")
		return
	}
	if r.Context().Err() == nil {
		s.log.Warn("GitLab gave no answer", "job", j.id, "error", err)
	}
	refuse(w, http.StatusBadGateway, "GitLab can't be reached")
}

// write passes an answer on.
func (a *answer) write(w http.ResponseWriter) {
	head := w.Header()
	maps.Copy(head, cleanHeader(a.header))
	head.Set("Content-Length", strconv.Itoa(len(a.body)))
	if a.status == http.StatusNoContent || a.status == http.StatusNotModified {
		head.Del("Content-Length")
	}
	w.WriteHeader(a.status)
	w.Write(a.body)
}

// refuse is an answer of our own.
func refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(rawObject{{"message", encode("roost: " + why)}}.bytes())
}

// retryAfter is what GitLab wants us to wait.
func (a *answer) retryAfter() time.Duration {
	n, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || n < 0 || n > 600 {
		return 0
	}
	return time.Duration(n) * time.Second
}
