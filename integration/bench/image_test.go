//go:build bench && linux

package bench

import (
	"context"
	"database/sql"
	"encoding/json"
	"path/filepath"

	_ "modernc.org/sqlite" // to look at what the store wrote down

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// imageNotCached is what the first view of a snapshot costs whose content is on
// this host while no image of it is: the tree is read from its manifest, an image
// is made of it, and a view is prepared. A driver without images has nothing to
// cache, and is not asked.
func (b *bench) imageNotCached(h *host, k key, id snapshot.ID) {
	if _, ok := h.d.(view.Imager); !ok {
		return
	}
	ctx := context.WithoutCancel(b.t.Context())
	place, err := h.forget(ctx, b.set.driver, id)
	if err != nil {
		b.rec.failed(k.of(opImage), err)
		return
	}
	for i := range 5 {
		if i > 0 { // trees are kept in memory while they are used
			_, err := h.forget(ctx, b.set.driver, id)
			said(b.t, err, "open again")
		}
		im := h.d.(view.Imager)
		var view snapshot.ID
		s := timed(func() {
			m, err := h.s.Tree(ctx, id)
			said(b.t, err, "tree")
			_, err = im.Image(ctx, place, nil, m)
			said(b.t, err, "image")
			view, _ = h.prepare(id)
		})
		b.rec.add(k.of(opImage), s)
		h.discard(view)
	}
}

// forget opens the store anew, and says where the driver has a layer.
func (h *host) forget(ctx context.Context, driver string, id snapshot.ID) (*view.Layer, error) {
	dir := h.s.Dir()
	h.close()
	place, err := placeOf(ctx, dir, id)
	*h = *newHost(h.t, driver, dir)
	return place, err
}

// placeOf is where the driver has a layer, as the store's database says.
func placeOf(ctx context.Context, dir string, id snapshot.ID) (*view.Layer, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "store.db")+"?mode=ro")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	var text string
	if err := db.QueryRowContext(ctx, "SELECT place FROM layers WHERE id=?", string(id)).Scan(&text); err != nil {
		return nil, err
	}
	l := &view.Layer{}
	return l, json.Unmarshal([]byte(text), l)
}
