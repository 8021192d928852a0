package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/roost-ci/roost/internal/fail"
)

// Apply implements Store.
//
// Crash states, in order:
//  1. before the commit: nothing of the batch exists; nobody was told.
//  2. after the commit, before the caller told anybody: all of it exists. The
//     caller of the call that caused it repeats it and finds it done.
func (s *SQLite) Apply(ctx context.Context, b *Batch) error {
	if b.Empty() {
		return nil
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return mapError(err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	w := &writer{ctx: ctx, tx: tx}
	w.batch(b)
	if w.err != nil {
		return mapError(w.err)
	}
	fail.Point("state.commit")
	if err := tx.Commit(); err != nil {
		return mapError(err)
	}
	fail.Point("state.committed")
	return nil
}

// writer runs statements until the first error.
type writer struct {
	ctx context.Context //nolint:containedctx // lives as long as one Apply
	tx  *sql.Tx
	err error
}

// exec runs a statement that must change one row if one is set.
func (w *writer) exec(one bool, what, query string, args ...any) {
	if w.err != nil {
		return
	}
	res, err := w.tx.ExecContext(w.ctx, query, args...)
	if err != nil {
		w.err = fmt.Errorf("%s: %w", what, err)
		return
	}
	if !one {
		return
	}
	if n, err := res.RowsAffected(); err != nil {
		w.err = fmt.Errorf("%s: %w", what, err)
	} else if n != 1 {
		w.err = fmt.Errorf("%s: %w", what, ErrStale)
	}
}

// body is the JSON part of a record.
func (w *writer) body(v any) string {
	b, err := json.Marshal(v)
	if err != nil && w.err == nil {
		w.err = err
	}
	return string(b)
}

func (w *writer) batch(b *Batch) {
	for k, v := range b.Meta {
		w.exec(true, "setting "+k, "INSERT OR REPLACE INTO meta VALUES (?, ?)", k, v)
	}
	for _, p := range b.Pipelines {
		w.pipeline(p)
	}
	for _, j := range b.Jobs {
		w.job(j)
	}
	for _, x := range b.Payloads {
		w.exec(true, "payload of "+x.Job, "INSERT INTO payloads VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET sealed = excluded.sealed", x.Job, x.Sealed)
	}
	for _, id := range b.DropPayloads {
		w.exec(false, "payload of "+id, "DELETE FROM payloads WHERE job = ?", id)
	}
	for _, a := range b.Attempts {
		w.attempt(a)
	}
	for _, x := range b.Snapshots {
		w.versioned("snapshots", "id", string(x.ID), x.Version, x)
	}
	for _, h := range b.Hosts {
		w.versioned("hosts", "name", h.Name, h.Version, h)
	}
	for _, d := range b.Domains {
		w.exec(true, "domain "+d.Project, "INSERT INTO domains VALUES (?, ?, ?) ON CONFLICT DO NOTHING", d.Project, d.Zone, d.Key)
	}
	for _, e := range b.Events {
		w.exec(true, "event", "INSERT INTO events VALUES (?, ?, ?)", e.Pipeline, e.Seq, w.body(e.Event))
	}
	for _, x := range b.Seeds {
		w.exec(true, "seed of "+x.Job, "INSERT OR REPLACE INTO seeds VALUES (?, ?, ?, ?, ?, ?)",
			x.Project, x.Zone, x.Job, x.Fingerprint, x.Number, string(x.Snapshot))
	}
	for _, x := range b.DropSeeds {
		w.exec(false, "seed of "+x.Job,
			"DELETE FROM seeds WHERE project = ? AND zone = ? AND job = ? AND fingerprint = ? AND number = ?",
			x.Project, x.Zone, x.Job, x.Fingerprint, x.Number)
	}
	for _, x := range b.Durations {
		w.exec(true, "duration of "+x.Job, "INSERT OR REPLACE INTO durations VALUES (?, ?, ?, ?)", x.Project, x.Job, x.MS, x.Count)
	}
}

func (w *writer) pipeline(p *Pipeline) {
	what := "pipeline " + p.ID
	live := 0
	if p.Live() {
		live = 1
	}
	if p.Version == 1 {
		w.exec(true, what, "INSERT INTO pipelines VALUES (?, 1, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
			p.ID, p.Number, p.Project, p.Key, live, w.body(p))
		return
	}
	w.exec(true, what, "UPDATE pipelines SET version = ?, live = ?, body = ? WHERE id = ? AND version = ?",
		p.Version, live, w.body(p), p.ID, p.Version-1)
}

func (w *writer) job(j *Job) {
	what := "job " + j.ID
	if j.Version == 1 {
		w.exec(true, what, "INSERT INTO jobs VALUES (?, 1, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
			j.ID, j.Pipeline, j.Index, w.body(j.Def), w.body(j))
		return
	}
	w.exec(true, what, "UPDATE jobs SET version = ?, body = ? WHERE id = ? AND version = ?",
		j.Version, w.body(j), j.ID, j.Version-1)
}

func (w *writer) attempt(a *Attempt) {
	what := "attempt " + string(a.ID)
	if a.Version == 1 {
		w.exec(true, what, "INSERT INTO attempts VALUES (?, 1, ?, ?, ?) ON CONFLICT DO NOTHING",
			string(a.ID), a.Job, a.Epoch, w.body(a))
		return
	}
	w.exec(true, what, "UPDATE attempts SET version = ?, body = ? WHERE id = ? AND version = ?",
		a.Version, w.body(a), string(a.ID), a.Version-1)
}

// versioned writes a record that has nothing but a key, a version and a body.
func (w *writer) versioned(table, key, id string, v int64, record any) {
	what := table + " " + id
	if v == 1 {
		w.exec(true, what, "INSERT INTO "+table+" VALUES (?, 1, ?) ON CONFLICT DO NOTHING", id, w.body(record))
		return
	}
	w.exec(true, what, "UPDATE "+table+" SET version = ?, body = ? WHERE "+key+" = ? AND version = ?",
		v, w.body(record), id, v-1)
}
