package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

const (
	selectPipeline = "SELECT id, version, number, project, key, body FROM pipelines "
	selectJob      = "SELECT id, version, pipeline, idx, def, body FROM jobs "
	selectAttempt  = "SELECT id, version, job, epoch, body FROM attempts "
)

// scanner is a row of a result.
type scanner interface{ Scan(...any) error }

func scanPipeline(r scanner) (*Pipeline, error) {
	p := &Pipeline{}
	var body string
	if err := r.Scan(&p.ID, &p.Version, &p.Number, &p.Project, &p.Key, &body); err != nil {
		return nil, err
	}
	return p, decode("pipeline "+p.ID, body, p)
}

func scanJob(r scanner) (*Job, error) {
	j := &Job{Def: &Def{}}
	var def, body string
	if err := r.Scan(&j.ID, &j.Version, &j.Pipeline, &j.Index, &def, &body); err != nil {
		return nil, err
	}
	if err := decode("job "+j.ID, def, j.Def); err != nil {
		return nil, err
	}
	return j, decode("job "+j.ID, body, j)
}

func scanAttempt(r scanner) (*Attempt, error) {
	a := &Attempt{}
	var body string
	if err := r.Scan(&a.ID, &a.Version, &a.Job, &a.Epoch, &body); err != nil {
		return nil, err
	}
	return a, decode("attempt "+string(a.ID), body, a)
}

func scanSnapshot(r scanner) (*Snapshot, error) {
	x := &Snapshot{}
	var body string
	if err := r.Scan(&x.ID, &x.Version, &body); err != nil {
		return nil, err
	}
	return x, decode("snapshot "+string(x.ID), body, x)
}

func scanHost(r scanner) (*Host, error) {
	h := &Host{}
	var body string
	if err := r.Scan(&h.Name, &h.Version, &body); err != nil {
		return nil, err
	}
	return h, decode("host "+h.Name, body, h)
}

func decode(what, body string, v any) error {
	if err := json.Unmarshal([]byte(body), v); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

// list scans every row of a query.
func list[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err tells what matters
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// one scans the only row of a query; none is ErrNotFound.
func one[T any](ctx context.Context, q querier, what string, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	v, err := scan(q.QueryRowContext(ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return v, fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return v, err
}

// reading runs f on one consistent state.
func (s *SQLite) reading(ctx context.Context, f func(querier) error) error {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it only read
	return f(tx)
}

// Pipeline implements Store.
func (s *SQLite) Pipeline(ctx context.Context, id string) (p *Pipeline, jobs []*Job, err error) {
	err = s.reading(ctx, func(q querier) error {
		if p, err = one(ctx, q, "pipeline "+id, scanPipeline, selectPipeline+"WHERE id = ?", id); err != nil {
			return err
		}
		jobs, err = list(ctx, q, scanJob, selectJob+"WHERE pipeline = ? ORDER BY idx", id)
		return err
	})
	return p, jobs, err
}

// PipelineID implements Store.
func (s *SQLite) PipelineID(ctx context.Context, number int64) (string, error) {
	p, err := one(ctx, s.read, fmt.Sprintf("pipeline %d", number), scanPipeline, selectPipeline+"WHERE number = ?", number)
	if err != nil {
		return "", err
	}
	return p.ID, nil
}

// PipelineByKey implements Store.
func (s *SQLite) PipelineByKey(ctx context.Context, key string) (*Pipeline, error) {
	return one(ctx, s.read, "key", scanPipeline, selectPipeline+"WHERE key = ?", key)
}

// Pipelines implements Store.
func (s *SQLite) Pipelines(ctx context.Context, project string, n int) ([]*Pipeline, error) {
	if project == "" {
		return list(ctx, s.read, scanPipeline, selectPipeline+"ORDER BY number DESC LIMIT ?", n)
	}
	return list(ctx, s.read, scanPipeline, selectPipeline+"WHERE project = ? ORDER BY number DESC LIMIT ?", project, n)
}

// Job implements Store.
func (s *SQLite) Job(ctx context.Context, id string) (j *Job, as []*Attempt, err error) {
	err = s.reading(ctx, func(q querier) error {
		if j, err = one(ctx, q, "job "+id, scanJob, selectJob+"WHERE id = ?", id); err != nil {
			return err
		}
		as, err = list(ctx, q, scanAttempt, selectAttempt+"WHERE job = ? ORDER BY epoch", id)
		return err
	})
	return j, as, err
}

// Attempt implements Store.
func (s *SQLite) Attempt(ctx context.Context, id snapshot.ID) (*Attempt, error) {
	return one(ctx, s.read, "attempt "+string(id), scanAttempt, selectAttempt+"WHERE id = ?", string(id))
}

// Events implements Store.
func (s *SQLite) Events(ctx context.Context, pipeline string, after int64, n int) ([]api.Event, error) {
	return list(ctx, s.read, func(r scanner) (api.Event, error) {
		var e api.Event
		var body string
		if err := r.Scan(&body); err != nil {
			return e, err
		}
		return e, decode("event", body, &e)
	}, "SELECT body FROM events WHERE pipeline = ? AND seq > ? ORDER BY seq LIMIT ?", pipeline, after, n)
}

// Payload implements Store.
func (s *SQLite) Payload(ctx context.Context, job string) ([]byte, error) {
	return one(ctx, s.read, "payload of "+job, func(r scanner) (b []byte, err error) {
		return b, r.Scan(&b)
	}, "SELECT sealed FROM payloads WHERE job = ?", job)
}

// Snapshots implements Store.
func (s *SQLite) Snapshots(ctx context.Context, ids []snapshot.ID) ([]*Snapshot, error) {
	return snapshots(ctx, s.read, ids)
}

func snapshots(ctx context.Context, q querier, ids []snapshot.ID) ([]*Snapshot, error) {
	var out []*Snapshot
	for _, id := range ids {
		x, err := one(ctx, q, "snapshot", scanSnapshot, "SELECT id, version, body FROM snapshots WHERE id = ?", string(id))
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}
