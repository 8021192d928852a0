package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// A directory in which nothing was changed since its base is the usual one, and of that
// no list is made: the base's manifest is read once, from front to end, while each inode
// that it names is looked at beside it. Where something was left out, or is now, a list
// is made: whether it is the same that is left out shows nowhere else.

// stampFlags are those of the list of stamps that is written.
func (c *creating) stampFlags() (f byte) {
	if c.s.o.Owners {
		f = stampOwners
	}
	if c.partial.Load() || c.spec.Exclude != nil {
		f |= stampPartial
	}
	return f
}

// again makes the snapshot if the directory is exactly what the base is; else it
// returns nil.
func (c *creating) again(ctx context.Context) (*Created, error) {
	st := c.baseStamps
	if st.len() == 0 || st.flags&stampPartial != 0 || st.flags != c.stampFlags() {
		return nil, nil //nolint:nilnil // as promised
	}
	if _, in, _, err := tree.Lstat(c.spec.Dir, "", tree.ScanOptions{}); err != nil {
		return nil, err
	} else if was := st.at(0); in.Dev != was.Dev || in.Ino != was.Ino {
		return nil, nil //nolint:nilnil // another directory: no inode will be the same
	}
	sum, files, err := c.resurvey(ctx)
	if err != nil || files < 0 {
		return nil, err
	}
	return c.sameAgain(ctx, sum, files)
}

// resurvey looks again at all that the base has. It returns the number of files and what
// the row is to say of the tree, if all is as it was, and else files < 0.
func (c *creating) resurvey(ctx context.Context) (sum totals, files int64, err error) {
	d := c.base.info.Manifest
	b, err := os.ReadFile(c.s.manifestPath(d))
	if err != nil {
		return sum, 0, fmt.Errorf("base: %w", lost("manifest", d, err))
	}
	same, err := tree.Resurvey(ctx, c.spec.Dir, c.scanOptions(), c.baseStamps.len(), func(fn func(*snapshot.Entry, tree.Inode) error) error {
		at := 0
		err := pack.EachEntry(b, d, func(e *snapshot.Entry) error {
			if at == c.baseStamps.len() {
				return errStampsShort
			}
			in := c.baseStamps.at(at)
			at++
			sum.add(e)
			if e.Type == snapshot.TypeFile {
				files++
			}
			return fn(e, in)
		})
		if err != nil {
			return fmt.Errorf("base: %w", err)
		}
		return nil
	})
	switch {
	case errors.Is(err, errStampsShort):
		return sum, -1, nil
	case err != nil:
		return sum, 0, err
	case slices.Contains(same, false), len(same) != int(sum.entries):
		return sum, -1, nil
	}
	return sum, files, nil
}

// errStampsShort says that there are not as many stamps as entries.
var errStampsShort = errors.New("stamps of another manifest")

// sameAgain makes the snapshot of a directory that is as the base is.
func (c *creating) sameAgain(ctx context.Context, sum totals, files int64) (*Created, error) {
	c.spec.Progress.Files.Add(files)
	d := c.base.info.Manifest
	e := &encoded{base: c.spec.Base, ix: &pack.Index{Base: d, Manifest: d}}
	fail.Point("store.create.encoded")
	index, indexBytes, err := c.s.writeIndex(e.ix)
	if err != nil {
		return nil, err
	}
	if err := c.s.linkStamps(c.spec.Base, c.id); err != nil {
		c.noStamps(err)
	}
	fail.Point("store.create.written")
	return c.commit(ctx, e, c.layer(e, sum, index, indexBytes), files)
}
