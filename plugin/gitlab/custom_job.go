package gitlab

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/gitlab/custom"
	"github.com/roost-ci/roost/snapshot"
)

// config gives a job that the runner has already a workspace. Whatever prevents
// that is said in the answer: whether the job can do without is the caller's to know.
func (c *customs) config(ctx context.Context, q custom.Request, info jobInfo, body rawObject) *custom.Answer {
	if j := c.find(info); j != nil && !j.Ended {
		return &j.Answer // asked again
	}
	select {
	case <-c.s.known:
	case <-ctx.Done():
		return &custom.Answer{Reason: "the agent does not answer"}
	}
	slot := c.take(q.Slot)
	if slot == 0 {
		return &custom.Answer{Reason: "no slot of this host is free"}
	}
	defer c.give(slot)
	begun := c.s.now()
	grant, why := c.claim(ctx, slot, q.Payload)
	if grant == nil {
		return &custom.Answer{Reason: why}
	}
	j := &customJob{
		Attempt: grant.Attempt, Slot: slot, Job: info.ID, TokenHash: hashToken(info.Token),
		Begun: begun, Deadline: begun.Add(info.Timeout + 5*time.Minute), Stages: map[string]int{},
	}
	work, err := c.s.agent.Attach(ctx, grant.Attempt, nil)
	if err == nil {
		j.Answer = customAnswer(work, body)
		err = c.save(j)
	}
	if err != nil {
		c.s.discard(c.s.life, plugin.DiscardRequest{Attempt: grant.Attempt, Outcome: plugin.OutcomeSystem, Reason: err.Error()})
		return &custom.Answer{Reason: err.Error(), Refused: !errors.Is(err, plugin.ErrUnavailable)}
	}
	return &j.Answer
}

// claim asks for the job's workspace for a while. Without one it says why.
func (c *customs) claim(ctx context.Context, slot int, payload []byte) (g *plugin.Grant, why string) {
	ctx, cancel := context.WithTimeout(ctx, ms(c.s.cfg.CustomMS))
	defer cancel()
	why = "nobody gave the job a workspace in time"
	for tries := c.s.tries(); ; {
		g, err := c.s.agent.Claim(ctx, plugin.Offer{Slot: slot, Job: payload})
		switch {
		case g != nil && err == nil:
			return g, ""
		case errors.Is(err, plugin.ErrInvalid):
			return nil, err.Error()
		case err != nil && ctx.Err() == nil:
			c.s.log.Warn("the agent gave no answer; trying again", "slot", slot, "error", err)
			why = err.Error()
		}
		if tries.Wait(ctx, 0) != nil {
			return nil, why
		}
	}
}

// customAnswer is what the executor is told. The job's payload can't be edited, so
// that settings of git go by the environment.
func customAnswer(w *plugin.Workspace, body rawObject) custom.Answer {
	a := custom.Answer{State: w.State, View: w.View, Lines: w.Lines, Reason: w.Reason, Env: map[string]string{}}
	for key, value := range w.Env {
		if envName.MatchString(key) {
			a.Env[key] = value
		}
	}
	if v, err := readVariables(body.get("variables")); err == nil && w.View != "" {
		if _, theirs := v.value("GIT_CONFIG_COUNT"); !theirs {
			own := &variables{}
			own.gitConfig([][2]string{{"core.checkStat", "minimal"}, {"core.trustctime", "false"}, {"safe.directory", "*"}})
			for _, l := range own.list {
				a.Env[l.key] = l.value
			}
		}
	}
	return a
}

// find is the job with that id and token.
func (c *customs) find(info jobInfo) *customJob {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := c.jobs[info.ID]
	if j == nil || !sameToken(j.TokenHash, hashToken(info.Token)) {
		return nil
	}
	return j
}

// take reserves a slot: the one that is asked for, or one without a job.
func (c *customs) take(want int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	busy := maps.Clone(c.taken)
	for _, j := range c.jobs {
		busy[j.Slot] = true
	}
	for _, n := range slices.Sorted(maps.Keys(c.s.slots)) {
		if (want == 0 || want == n) && !busy[n] {
			c.taken[n] = true
			return n
		}
	}
	return 0
}

func (c *customs) give(slot int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.taken, slot)
}

// stage notes how a stage of the job stands.
func (c *customs) stage(q custom.Request, info jobInfo) (*custom.Answer, error) {
	j := c.find(info)
	if j == nil || j.Ended {
		return &custom.Answer{}, nil // a job without a workspace
	}
	if len(q.Stage) > 200 || len(j.Stages) > 200 {
		return nil, errors.New("more stages than a job has")
	}
	next := *j
	next.Stages = maps.Clone(j.Stages)
	next.Stages[q.Stage] = q.Exit
	return &j.Answer, c.save(&next)
}

// mayFail are stages that don't decide how a job ends.
var mayFail = []string{
	"prepare", "cleanup", "after_script", "restore_cache", "archive_cache", "archive_cache_on_failure", "upload_artifacts_on_failure", "cleanup_file_variables",
}

// succeeded reports whether a job's stages say that it was a success: its script ran
// and ended well, and so did all that has to.
func (j *customJob) succeeded() bool {
	ran := false
	for stage, exit := range j.Stages {
		if slices.Contains(mayFail, stage) {
			continue
		}
		if exit != 0 {
			return false
		}
		ran = ran || stage == "build_script" || strings.HasPrefix(stage, "step_")
	}
	return ran
}

// cleanup ends the job for the agent. The runner tells GitLab after it.
func (c *customs) cleanup(q custom.Request, info jobInfo) (*custom.Answer, error) {
	j := c.find(info)
	if j == nil {
		return &custom.Answer{}, nil
	}
	if !j.Ended {
		next := *j
		next.Ended = true
		if !j.succeeded() {
			next.Outcome = plugin.OutcomeFailed
		} else if err := custom.Scrub(j.Answer.View, q.Payload); err != nil {
			c.s.log.Error("secrets of a job can't be removed; its workspace is not kept", "job", j.Job, "error", err)
			next.Outcome = plugin.OutcomeFailed
		}
		if err := c.save(&next); err != nil {
			return nil, err
		}
		j = &next
	}
	lines, ok := c.end(j)
	if !ok {
		return nil, errNotServing
	}
	return &custom.Answer{Lines: lines}, nil
}

// end tells the agent until it answers.
func (c *customs) end(j *customJob) (lines []string, ok bool) {
	run := c.s.now().Sub(j.Begun)
	if j.Outcome != "" {
		ok = c.s.discard(c.s.life, plugin.DiscardRequest{Attempt: j.Attempt, Outcome: j.Outcome, Run: run})
	} else {
		within := max(time.Second, j.Deadline.Sub(c.s.now())-30*time.Second)
		ok = c.s.tell(c.s.life, "seal", func(ctx context.Context) error {
			sealed, err := c.s.agent.Seal(ctx, plugin.SealRequest{Attempt: j.Attempt, Run: run, Within: within})
			if errors.Is(err, snapshot.ErrNotFound) {
				return nil
			}
			if err == nil {
				lines = sealLines(sealed)
			}
			return err
		})
	}
	if ok {
		c.forget(j)
	}
	return lines, ok
}

// reconcile compares the records with what the agent holds. A job whose runner will
// never end it is ended when its time is over.
func (c *customs) reconcile(held map[snapshot.ID]bool) {
	c.mu.Lock()
	jobs := slices.Collect(maps.Values(c.jobs))
	c.mu.Unlock()
	for _, j := range jobs {
		switch {
		case !held[j.Attempt] && !j.Ended:
			c.forget(j)
		case j.Ended:
			c.s.spawn(func(context.Context) { c.end(j) })
		}
	}
}

// expire ends jobs whose runner has died.
func (c *customs) expire() {
	c.mu.Lock()
	jobs := slices.Collect(maps.Values(c.jobs))
	c.mu.Unlock()
	for _, j := range jobs {
		if !j.Ended && c.s.now().After(j.Deadline.Add(time.Hour)) {
			next := *j
			next.Ended, next.Outcome = true, plugin.OutcomeSystem
			if c.save(&next) == nil {
				c.s.spawn(func(context.Context) { c.end(&next) })
			}
		}
	}
}

func writer(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}
