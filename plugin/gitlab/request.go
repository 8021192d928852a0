package gitlab

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/roost-ci/roost/plugin"
)

// maxCall bounds the bodies of calls that are read whole. The runner's biggest is a piece
// of trace of 1 MiB.
const maxCall = 4 << 20

// request is the runner's question for a job. The answer is 201 with a job or 204 with
// none; never 403, three of which make the runner leave us alone for an hour.
func (s *service) request(w http.ResponseWriter, r *http.Request, sl *slot) {
	body, err := readAsk(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "the request is not a JSON object")
		return
	}
	if !sl.knows(r, body) {
		refuse(w, http.StatusUnauthorized, "not this slot's token")
		return
	}
	wait := sl.take(r.Context())
	h := sl.next(wait, sl.offer(body))
	if h == nil || !h.deliver(w, r, wait) {
		if r.Context().Err() == nil {
			w.WriteHeader(http.StatusNoContent)
		}
	}
	sl.leave(wait, r.Context().Err() != nil)
}

// knows reports whether the request has the slot's local token, in the body and, if
// it is there, in the header.
func (sl *slot) knows(r *http.Request, body rawObject) bool {
	ok := sl.cfg.Token != "" && sameToken(body.str("token"), sl.cfg.Token)
	if head := r.Header.Get("Runner-Token"); head != "" {
		ok = sameToken(head, sl.cfg.Token) && ok
	}
	return ok
}

// offer is what the coordinator needs of the request to ask GitLab in its name. The
// token stays here, and so does the address of a terminal session, as nobody knows
// yet whether the job will be this runner's.
func (sl *slot) offer(body rawObject) plugin.Offer {
	runner := rawObject{}
	for _, name := range []string{"info", "system_id"} {
		if v := body.get(name); v != nil {
			runner.set(name, v)
		}
	}
	return plugin.Offer{Slot: sl.cfg.Number, Runner: runner.bytes()}
}

// announces reports whether a runner tells at once of a job that it got.
func announces(runner []byte) bool {
	var r struct {
		Info struct {
			Features struct {
				TwoPhase bool `json:"two_phase_job_commit"`
			} `json:"features"`
		} `json:"info"`
	}
	return json.Unmarshal(runner, &r) == nil && r.Info.Features.TwoPhase
}

// deliver hands the job to the request: the record first, then the answer. It
// reports whether an answer was begun. When the runner has gone before that, the job is
// given back; when it goes meanwhile or after, its silence tells.
func (h *hand) deliver(w http.ResponseWriter, r *http.Request, wait *waiter) bool {
	s, j := h.sl.s, h.job
	if !h.claimFor(wait) {
		return false
	}
	payload, err := h.edit().apply(h.body, h.info)
	if err == nil {
		prefix, foreign, known := j.trace.lines()
		err = j.change(func(rec *record) {
			rec.Prefix, rec.Foreign, rec.Logged, rec.Doubts, rec.Handed = prefix, foreign, known, j.trace.unsure(), s.now()
			rec.Durable = promises(h.body, h.work.Env)
		})
	}
	s.enlist(j)
	if err == nil {
		err = r.Context().Err()
	}
	if err != nil {
		s.log.Warn("a job was not handed out", "job", j.id, "slot", h.sl.cfg.Number, "error", err)
		j.undelivered(err.Error())
		return r.Context().Err() != nil
	}
	s.follow(r, j)
	head := w.Header()
	head.Set("Content-Type", "application/json") // with anything else the runner drops the job
	head.Set("Content-Length", strconv.Itoa(len(payload)))
	if id := r.Header.Get("X-Request-Id"); id != "" {
		head.Set("X-Request-Id", id)
	}
	w.WriteHeader(http.StatusCreated)
	_, err = w.Write(payload)
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	if err != nil {
		j.undelivered("the answer could not be written: " + err.Error())
		return true
	}
	if err := s.recs.mark(h.grant.Attempt, markSent); err != nil {
		s.log.Warn("a job's record can't be written", "job", j.id, "error", err)
	}
	return true
}

// edit is what is to be done to the payload if it is handed out now.
func (h *hand) edit() edit {
	s := h.sl.s
	return edit{work: h.work, buildsDir: h.sl.cfg.BuildsDir, ca: s.ca, late: h.grant.Age + s.now().Sub(h.since)}
}

// claimFor makes the hand the waiter's job. It fails if either is not there any more.
func (h *hand) claimFor(wait *waiter) bool {
	h.sl.mu.Lock()
	defer h.sl.mu.Unlock()
	if h.sl.hand != h || wait.ctx.Err() != nil || h.ctx.Err() != nil {
		return false
	}
	h.sl.hand, h.sl.job = nil, h.job
	close(h.taken)
	return true
}

// promises reports whether the job's success means more than a seal.
func promises(body rawObject, env map[string]string) bool {
	d := env["ROOST_DURABILITY"]
	if d == "" {
		if v, err := readVariables(body.get("variables")); err == nil {
			d, _ = v.value("ROOST_DURABILITY")
		}
	}
	return d == "durable" || strings.HasPrefix(d, "replicated")
}

var errTooLong = errors.New("more than a runner ever sends")

// readBody reads a call's body whole.
func readBody(r io.Reader) ([]byte, error) { return readUpTo(r, maxCall) }

func readUpTo(r io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, errTooLong
	}
	return b, nil
}

const (
	// maxAsk and askTime bound the body of a call whose token is in it: until it is read
	// anybody may be at the other end, and there may be many of them. A runner sends 3 KiB.
	maxAsk  = 256 << 10
	askTime = 30 * time.Second
)

// readAsk reads such a body.
func readAsk(w http.ResponseWriter, r *http.Request) (rawObject, error) {
	c := http.NewResponseController(w)
	slow := time.AfterFunc(askTime, func() { c.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // then it is read for longer
	b, err := readUpTo(r.Body, maxAsk)
	if !slow.Stop() && err == nil {
		err = errTooLong
	}
	if err != nil {
		return nil, err
	}
	return parseObject(b)
}

func readObject(r io.Reader) (rawObject, error) {
	b, err := readBody(r)
	if err != nil {
		return nil, err
	}
	return parseObject(b)
}
