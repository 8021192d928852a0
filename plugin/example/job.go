package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// phases of a job, in order. Each is on disk before what it names is begun.
const (
	granted = "granted" // the agent gave it; nothing has run
	started = "started" // its script runs, or is about to
	over    = "over"    // the agent knows its end; the spool may not
	told    = "told"    // the spool does, too; what is left is to be removed
	lost    = "lost"    // another host has it
)

// record is what a process must know of a job that another one began.
type record struct {
	Attempt snapshot.ID   `json:"attempt"`
	Slot    int           `json:"slot"`
	Name    string        `json:"name"`
	Phase   string        `json:"phase"`
	Began   time.Time     `json:"began,omitzero"`
	Work    string        `json:"work,omitempty"` // where the script runs
	Status  plugin.Status `json:"status,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Behind  []string      `json:"behind,omitempty"` // lines behind the log
}

// job is a job that a slot has.
type job struct {
	s    *spool
	gone bool // the agent did not hold its attempt when this process began

	mu     sync.Mutex
	record record
	stop   chan struct{} // closed when it is lost
}

func (j *job) path(ext string) string { return filepath.Join(j.s.dir, string(j.record.Attempt)+ext) }

// save writes the record so that it survives a crash of the machine. With j.mu, or before others
// see the job.
func (j *job) save() error {
	b, err := json.Marshal(j.record)
	if err != nil {
		return err
	}
	return writeFile(j.path(".json"), b)
}

// advance goes to the next phase, unless the job is lost.
func (j *job) advance(change func(*record)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.record.Phase == lost {
		return errLost
	}
	change(&j.record)
	return j.save()
}

var errLost = errors.New("the attempt is lost")

// lose notes that another host has the job.
func (j *job) lose(why string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.record.Phase == lost || j.record.Phase == over || j.record.Phase == told {
		return nil
	}
	j.record.Phase, j.record.Reason = lost, why
	close(j.stop)
	return j.save()
}

// run brings the job to its end, from wherever it is. An error says that it could not
// be, for now.
func (j *job) run(ctx context.Context) error {
	r := j.record // only lose changes it meanwhile
	err := error(nil)
	switch r.Phase {
	case granted:
		if j.gone { // it was given back before anything of it ran
			return j.clean()
		}
		err = j.begin(ctx)
	case started:
		if j.never() && !j.gone {
			err = j.begin(ctx)
		} else {
			err = j.watch(ctx)
		}
	case over:
		return j.publish()
	case told:
		return j.clean()
	case lost:
		err = errLost
	}
	if errors.Is(err, errLost) {
		return j.giveUp(ctx)
	}
	return err
}

// begin gets the workspace and starts the script.
func (j *job) begin(ctx context.Context) error {
	out, err := os.OpenFile(j.path(".log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	var w *plugin.Workspace
	err = retry(ctx, func() (err error) {
		w, err = j.s.agent.Attach(ctx, j.record.Attempt, func(line string) { fmt.Fprintln(out, line) })
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return j.end(ctx, plugin.OutcomeSystem, plugin.StatusSystemFailure, 0, err.Error())
	}
	for _, l := range w.Lines {
		fmt.Fprintln(out, l)
	}
	work := w.View
	if work == "" { // no workspace: a directory of its own
		work = filepath.Join(j.s.dir, fmt.Sprintf("work-%d", j.record.Slot))
		if err := errors.Join(os.RemoveAll(work), os.Mkdir(work, 0o755)); err != nil {
			return err
		}
	}
	script, err := j.script()
	if err != nil {
		return j.end(ctx, plugin.OutcomeSystem, plugin.StatusSystemFailure, 0, err.Error())
	}
	err = j.advance(func(r *record) { r.Phase, r.Work, r.Began = started, work, time.Now() })
	if err != nil {
		return err
	}
	if err := j.launch(script, w.Env, out); err != nil {
		return j.end(ctx, plugin.OutcomeSystem, plugin.StatusSystemFailure, 0, err.Error())
	}
	return j.watch(ctx)
}

func (j *job) script() (string, error) {
	b, err := os.ReadFile(j.new())
	if err != nil {
		return "", err
	}
	var job struct {
		Script string `json:"script"`
	}
	if err := json.Unmarshal(b, &job); err != nil {
		return "", errors.New("the job is not the JSON that it should be") // not err: it quotes
	}
	return job.Script, nil
}

// watch waits until the script ends, and tells the agent.
func (j *job) watch(ctx context.Context) error {
	code, err := j.wait(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // the script goes on, and so does the next process
	case err != nil && !errors.Is(err, errLost):
		return j.end(ctx, plugin.OutcomeSystem, plugin.StatusSystemFailure, 0, err.Error())
	case err != nil:
		return err
	case code != 0:
		return j.end(ctx, plugin.OutcomeFailed, plugin.StatusFailed, code, fmt.Sprintf("exit code %d", code))
	}
	var sealed *plugin.Sealed
	err = retry(ctx, func() (err error) {
		sealed, err = j.s.agent.Seal(ctx, plugin.SealRequest{Attempt: j.record.Attempt, Run: j.took()})
		return err
	})
	if err != nil {
		return err
	}
	err = j.advance(func(r *record) {
		r.Phase, r.Status, r.Reason, r.Behind = over, plugin.StatusSuccess, sealed.Reason, sealed.Lines
		if sealed.Failed {
			r.Status = plugin.StatusSystemFailure
		}
	})
	if err != nil {
		return err
	}
	return j.publish()
}

func (j *job) took() time.Duration { return max(0, time.Since(j.record.Began)) }

// end ends a job that did not succeed.
func (j *job) end(ctx context.Context, o plugin.Outcome, st plugin.Status, code int, reason string) error {
	d := plugin.DiscardRequest{Attempt: j.record.Attempt, Outcome: o, ExitCode: code, Reason: reason}
	if !j.record.Began.IsZero() {
		d.Run = j.took()
	}
	if err := retry(ctx, func() error { return j.s.agent.Discard(ctx, d) }); err != nil {
		return err
	}
	if err := j.advance(func(r *record) { r.Phase, r.Status, r.Reason = over, st, reason }); err != nil {
		return err
	}
	return j.publish()
}

// giveUp ends an attempt that is another host's now.
func (j *job) giveUp(ctx context.Context) error {
	j.kill()
	d := plugin.DiscardRequest{Attempt: j.record.Attempt, Outcome: plugin.OutcomeCanceled, Reason: j.record.Reason}
	if err := retry(ctx, func() error { return j.s.agent.Discard(ctx, d) }); err != nil {
		return err
	}
	if err := remove(j.new()); err != nil {
		return err
	}
	return j.clean()
}

func (j *job) new() string { return filepath.Join(j.s.spool, "new", j.record.Name+".json") }

// publish puts log and end into the spool; until the record says that this is done it may be
// done again, to the same effect.
func (j *job) publish() error {
	done := filepath.Join(j.s.spool, "done", j.record.Name)
	log, err := os.ReadFile(j.path(".log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, l := range j.record.Behind {
		log = append(log, strings.TrimSuffix(l, "\n")+"\n"...)
	}
	end, err := json.Marshal(map[string]any{
		"status": j.record.Status, "reason": j.record.Reason, "dir": j.record.Work,
	})
	if err != nil {
		return err
	}
	if err := writeFile(done+".log", log); err != nil {
		return err
	}
	if err := writeFile(done+".json", end); err != nil {
		return err
	}
	if err := remove(j.new()); err != nil {
		return err
	}
	if err := j.advance(func(r *record) { r.Phase = told }); err != nil {
		return err
	}
	return j.clean()
}

// clean forgets the job; the record goes last.
func (j *job) clean() error {
	for _, ext := range []string{".log", ".sh", ".exit", ".lock", ".json"} {
		if err := remove(j.path(ext)); err != nil {
			return err
		}
	}
	return nil
}

// loadRecords reads the records of an earlier process.
func loadRecords(dir string) (map[snapshot.ID]record, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	out := map[snapshot.ID]record{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		if _, err := snapshot.ParseID(string(r.Attempt)); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		out[r.Attempt] = r
	}
	return out, nil
}

// writeFile replaces a file so that it is there whole or as before, whatever happens.
func writeFile(path string, b []byte) error {
	tmp, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
