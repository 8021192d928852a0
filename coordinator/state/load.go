package state

import (
	"context"

	"github.com/roost-ci/roost/snapshot"
)

// Load implements Store.
func (s *SQLite) Load(ctx context.Context) (*Live, error) {
	l := &Live{Meta: map[string]string{}}
	err := s.reading(ctx, func(q querier) error {
		steps := []func() error{
			func() (err error) {
				l.Pipelines, err = list(ctx, q, scanPipeline, selectPipeline+"WHERE live = 1 ORDER BY number")
				return err
			},
			func() (err error) {
				l.Jobs, err = list(ctx, q, scanJob,
					selectJob+"WHERE pipeline IN (SELECT id FROM pipelines WHERE live = 1) ORDER BY pipeline, idx")
				return err
			},
			func() (err error) {
				l.Attempts, err = list(ctx, q, scanAttempt, selectAttempt+
					"WHERE job IN (SELECT id FROM jobs WHERE pipeline IN (SELECT id FROM pipelines WHERE live = 1)) ORDER BY job, epoch")
				return err
			},
			func() (err error) {
				l.Hosts, err = list(ctx, q, scanHost, "SELECT name, version, body FROM hosts ORDER BY name")
				return err
			},
			func() error { return l.small(ctx, q) },
			func() error { return l.lineage(ctx, q) },
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	return l, err
}

// small reads the tables that have no records of their own.
func (l *Live) small(ctx context.Context, q querier) (err error) {
	if l.Domains, err = list(ctx, q, func(r scanner) (*Domain, error) {
		d := &Domain{}
		return d, r.Scan(&d.Project, &d.Zone, &d.Key)
	}, "SELECT project, zone, key FROM domains ORDER BY project, zone"); err != nil {
		return err
	}
	if l.Seeds, err = list(ctx, q, func(r scanner) (x Seed, err error) {
		return x, r.Scan(&x.Project, &x.Zone, &x.Job, &x.Fingerprint, &x.Number, &x.Snapshot)
	}, "SELECT project, zone, job, fingerprint, number, snapshot FROM seeds ORDER BY project, zone, job, fingerprint, number"); err != nil {
		return err
	}
	if l.Durations, err = list(ctx, q, func(r scanner) (x Duration, err error) {
		return x, r.Scan(&x.Project, &x.Job, &x.MS, &x.Count)
	}, "SELECT project, job, ms, count FROM durations ORDER BY project, job"); err != nil {
		return err
	}
	if _, err = list(ctx, q, func(r scanner) (struct{}, error) {
		var k, v string
		err := r.Scan(&k, &v)
		l.Meta[k] = v
		return struct{}{}, err
	}, "SELECT name, value FROM meta"); err != nil {
		return err
	}
	return q.QueryRowContext(ctx, "SELECT coalesce(max(number), 0) FROM pipelines").Scan(&l.Number)
}

// lineage reads the snapshots that live things refer to, and theirs in turn.
func (l *Live) lineage(ctx context.Context, q querier) error {
	seen := map[snapshot.ID]bool{}
	var next []snapshot.ID
	add := func(ids ...snapshot.ID) {
		for _, id := range ids {
			if id != "" && !seen[id] {
				seen[id] = true
				next = append(next, id)
			}
		}
	}
	for _, j := range l.Jobs {
		add(j.Output)
		for _, in := range j.Inputs {
			add(in.Snapshot)
		}
	}
	for _, x := range l.Seeds {
		add(x.Snapshot)
	}
	for len(next) > 0 {
		xs, err := snapshots(ctx, q, next)
		if err != nil {
			return err
		}
		next = nil
		for _, x := range xs {
			l.Snapshots = append(l.Snapshots, x)
			add(x.Parents...)
			add(x.Layer.Base)
		}
	}
	return nil
}
