package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/mountinfo"
	"github.com/roost-ci/roost/snapshot"
)

// Reconcile implements Driver.
//
// A mount that somebody still uses is left where it is and named in the report:
// its view can't be sealed or deleted until they are gone, and is never used
// meanwhile.
func (d *Overlay) Reconcile(ctx context.Context, layers, views []snapshot.ID) ([]string, error) {
	var report []string
	d.mu.Lock()
	kept := d.kept
	d.mu.Unlock()
	busy, err := d.o.reconcileMounts(ctx, d.root, kept, &report)
	if err != nil {
		return report, fmt.Errorf("reconcile: %w", err)
	}
	d.shredWorks(ctx, layers, busy)
	err = d.frame().sweep(ctx, layers, views, busy, &report)
	return report, err
}

// reconcileMounts ends every mount below root, and every overlay with a directory
// below root, every image of one, and every bind mount of one, wherever it is mounted. It returns the directories
// views/<id> of those that are still in use. Views that are kept stay.
func (o Options) reconcileMounts(ctx context.Context, root string, keep kept, report *[]string) (map[string]bool, error) {
	all, err := readMounts()
	if err != nil {
		return nil, err
	}
	nameBinds(all)
	busy := map[string]bool{}
	for i := len(all) - 1; i >= 0; i-- {
		m := all[i]
		dirs := viewDirs(root, m)
		if (!mountinfo.Inside(m.point, root) || m.point == root) && len(dirs) == 0 { // at root itself is what the store lies on
			continue
		}
		if len(dirs) == 0 && slices.Contains(m.dirs, m.point) {
			continue // a directory mounted on itself hides nothing: slots are shared that way
		}
		if o.Keep[m.point] || keep.has(m) {
			mark(busy, dirs)
			continue
		}
		ours := m.fstype == "overlay" && len(dirs) > 0
		if ours {
			err := o.retryBusy(ctx, o.ReconcileWait, func() error { return setReadOnly(m.point, true) })
			if errors.Is(err, errNoOverlay) || errors.Is(err, unix.EINVAL) {
				continue // it went together with a peer of its mount point
			}
			if errors.Is(err, snapshot.ErrBusy) {
				*report = append(*report, fmt.Sprintf("%s is still written to; left as it is", m.point))
				mark(busy, dirs)
				continue
			}
		}
		if err := o.unmount(ctx, m.point, o.ReconcileWait); err != nil {
			*report = append(*report, err.Error())
			mark(busy, dirs)
			continue
		}
		*report = append(*report, "unmounted "+m.point)
		if ours || m.fstype == "erofs" && !mountinfo.Inside(m.point, root) {
			os.Remove(m.point) //nolint:errcheck // a mount point of use to nobody
		}
	}
	return busy, nil
}

func mark(set map[string]bool, names []string) {
	for _, n := range names {
		set[n] = true
	}
}

// viewDirs lists the directories views/<id> below root that a mount uses.
func viewDirs(root string, m mountEntry) []string {
	views := filepath.Join(root, viewsDir)
	var out []string
	for _, dir := range append(m.dirs, m.point) {
		if of, ok := (layout{root}).imageDir(dir); ok {
			out = append(out, of)
			continue
		}
		if mountinfo.Inside(dir, views) && dir != views {
			name := dir[len(views)+1:]
			name, _, _ = strings.Cut(name, "/")
			out = append(out, filepath.Join(views, name))
		}
	}
	return out
}

// shows reports whether m is the overlay of a view, by its upper directory.
func (m mountEntry) shows(upper string) bool {
	return m.fstype == "overlay" && slices.Contains(m.dirs, upper)
}

// has reports whether m is a view that is kept, or is mounted in one.
func (k kept) has(m mountEntry) bool {
	return slices.ContainsFunc(k, func(v keptView) bool {
		// What a view is mounted in can't be unmounted without it.
		return m.shows(v.upper) || m.point != v.target && (mountinfo.Inside(m.point, v.target) || mountinfo.Inside(v.target, m.point))
	})
}
