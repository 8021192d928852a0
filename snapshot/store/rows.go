package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// loadID reads the store's id, and draws it the first time.
func (s *Store) loadID(ctx context.Context) error {
	var b []byte
	err := s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key='id'").Scan(&b)
	if err == nil {
		s.id, err = snapshot.ParseID(string(b))
		return err
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return dbError(err)
	}
	if s.id, err = snapshot.NewID(s.o.Rand); err != nil {
		return err
	}
	return s.commit(ctx, func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO meta (key, value) VALUES ('id', ?)", []byte(s.id))
		return err
	})
}

// loadRows fills the maps.
func (s *Store) loadRows(ctx context.Context) error {
	if err := s.loadViews(ctx); err != nil {
		return fmt.Errorf("views: %w", err)
	}
	if err := s.loadLayers(ctx); err != nil {
		return fmt.Errorf("layers: %w", err)
	}
	if err := s.loadPacks(ctx); err != nil {
		return fmt.Errorf("packs: %w", err)
	}
	if err := s.loadUse(ctx); err != nil {
		return fmt.Errorf("use of layers: %w", err)
	}
	return nil
}

func (s *Store) loadViews(ctx context.Context) error {
	return s.each(ctx, "SELECT id, target, claim, sealed, outcome FROM views", func(r *sql.Rows) error {
		v := &openView{}
		if err := r.Scan(&v.id, &v.target, &v.claim, &v.sealed, &v.outcome); err != nil {
			return err
		}
		if _, err := snapshot.ParseID(string(v.id)); err != nil {
			return err
		}
		s.views[v.id] = v
		return nil
	})
}

func (s *Store) loadLayers(ctx context.Context) error {
	const q = `SELECT seq, id, base, parents, place, fanin, imported, state, synced, boot, domain_key,
		manifest, idx, index_bytes, stored_bytes, plain_bytes, tree_bytes, entries, disk_bytes, encode_ms, err,
		wire_base, fetch_bytes, made, below, chain FROM layers ORDER BY seq`
	return s.each(ctx, q, func(r *sql.Rows) error {
		l, at := &layer{atMost: -1}, &view.Layer{}
		l.at.Store(at)
		in := &l.info
		var parents, place, chain string
		var manifest, index []byte
		var made int64
		if err := r.Scan(&l.seq, &in.ID, &in.Base, &parents, &place, &l.fanin, &l.imported, &in.State, &in.Synced,
			&l.boot, &l.key, &manifest, &index, &in.IndexBytes, &in.StoredBytes, &in.PlainBytes, &in.TreeBytes,
			&in.Entries, &in.DiskBytes, &in.EncodeMS, &in.Err, &in.WireBase, &in.FetchBytes, &made, &l.below, &chain); err != nil {
			return err
		}
		if _, err := snapshot.ParseID(string(in.ID)); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(parents), &in.Parents); err != nil {
			return fmt.Errorf("%s: parents: %w", in.ID, err)
		}
		if err := json.Unmarshal([]byte(place), at); err != nil {
			return fmt.Errorf("%s: place: %w", in.ID, err)
		}
		if err := l.readChain(chain); err != nil {
			return err
		}
		in.Made = time.Unix(0, made)
		copy(in.Manifest[:], manifest)
		copy(in.Index[:], index)
		l.unsized = in.Index.IsZero()
		s.layers[in.ID] = l
		if at.Gathered {
			s.gathering.movedLocked(l)
		}
		s.nextSeq = max(s.nextSeq, l.seq+1)
		return nil
	})
}

func (s *Store) loadPacks(ctx context.Context) error {
	return s.each(ctx, "SELECT layer, digest, bytes, own FROM packs ORDER BY layer, pos", func(r *sql.Rows) error {
		var id snapshot.ID
		var digest []byte
		var p pack.Pack
		if err := r.Scan(&id, &digest, &p.Bytes, &p.Own); err != nil {
			return err
		}
		copy(p.Digest[:], digest)
		if l, ok := s.layers[id]; ok {
			l.packs = append(l.packs, p)
		}
		return nil
	})
}

func (s *Store) each(ctx context.Context, q string, fn func(*sql.Rows) error) error {
	rows, err := s.db.QueryContext(ctx, q)
	if err != nil {
		return dbError(err)
	}
	defer rows.Close() //nolint:errcheck // Err is asked below
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return dbError(rows.Err())
}

// insertLayer writes the row of a new layer, also over one whose commit seemed not
// to work.
func (s *Store) insertLayer(ctx context.Context, tx *txn, l *layer) error {
	in := &l.info
	in.Made = time.Unix(0, s.o.Now().UnixNano()) // as it is read back
	parents, err := json.Marshal(in.Parents)
	if err != nil {
		return err
	}
	place, err := json.Marshal(l.place())
	if err != nil {
		return err
	}
	chain, err := l.chainText()
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT OR REPLACE INTO layers (seq, id, base, parents, place, fanin, imported, state, synced,
		boot, domain_key, manifest, idx, index_bytes, stored_bytes, plain_bytes, tree_bytes, entries, disk_bytes,
		encode_ms, err, made, wire_base, fetch_bytes, below, chain) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		l.seq, string(in.ID), string(in.Base), string(parents), string(place), l.fanin, l.imported, string(in.State),
		in.Synced, l.boot, l.key, bytesOf(in.Manifest), bytesOf(in.Index), in.IndexBytes, in.StoredBytes, in.PlainBytes,
		in.TreeBytes, in.Entries, in.DiskBytes, in.EncodeMS, in.Err, in.Made.UnixNano(),
		string(in.WireBase), in.FetchBytes, l.below, chain)
	if err != nil {
		return err
	}
	return insertPacks(ctx, tx, in.ID, l.packs)
}

// updateLayer writes what changes in the life of a layer.
func updateLayer(ctx context.Context, tx *txn, in *Info) error {
	_, err := tx.ExecContext(ctx, `UPDATE layers SET state=?, synced=?, manifest=?, idx=?, index_bytes=?,
		stored_bytes=?, plain_bytes=?, tree_bytes=?, entries=?, disk_bytes=?, encode_ms=?, err=?,
		wire_base=?, fetch_bytes=? WHERE id=?`,
		string(in.State), in.Synced, bytesOf(in.Manifest), bytesOf(in.Index), in.IndexBytes, in.StoredBytes,
		in.PlainBytes, in.TreeBytes, in.Entries, in.DiskBytes, in.EncodeMS, in.Err, string(in.WireBase),
		in.FetchBytes, string(in.ID))
	return err
}

func insertPacks(ctx context.Context, tx *txn, id snapshot.ID, packs []pack.Pack) error {
	for i, p := range packs {
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO packs (layer, pos, digest, bytes, own) VALUES (?,?,?,?,?)",
			string(id), i, bytesOf(p.Digest), p.Bytes, p.Own)
		if err != nil {
			return err
		}
	}
	return nil
}

func bytesOf(d snapshot.Digest) []byte {
	if d.IsZero() {
		return nil
	}
	return d[:]
}
