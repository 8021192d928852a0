package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/tree"
)

// created is what create prints with --json.
type created struct {
	Snapshot    snapshot.ID `json:"snapshot"`
	Entries     int64       `json:"entries"`
	Bytes       int64       `json:"bytes"`
	BytesNew    int64       `json:"bytes_new"`
	BytesStored int64       `json:"bytes_stored"`
	WallMS      float64     `json:"wall_ms"`
	Skipped     int         `json:"skipped,omitempty"`
}

func newSnapshotCreate() *cobra.Command {
	var (
		o    opened
		base string
		skip bool
		out  leftOut
	)
	c := &cobra.Command{
		Use:   "create DIR",
		Short: "Make a snapshot of a directory",
		Long: `Makes a snapshot of DIR and prints its id. What the store has already, in any of
its snapshots, is not stored again.

With --base SNAP, a snapshot of the same directory, files are not even read whose
size, times, inode and device are as they were then. A file that was written to
after its ctime could tell is read. Without --base every file is read, and so it is
with --base latest in a store that has no snapshot yet.

Device nodes, file capabilities and foreign trusted.* and security.* attributes
can't be kept: create ends with 1 and names the first, or with --skip-unsupported
leaves them out and names them all. A file that is written to while it is read ends
create, too; nothing is kept then.

Patterns of --exclude are as in .gitignore: node_modules or *.o leave out that name
wherever it lies, /build or docs/*.pdf a path in DIR, cache/ a directory alone; **
stands for any directories. In a file, lines that begin with # and empty ones don't
count. What is left out is left out without a word.` + exitHelp,
		Example:           "  roost snapshot create ~/project --store /var/backups/roost\n  roost snapshot create ~/project --base latest",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeSnaps(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.checkSource(args[0]); err != nil {
				return err
			}
			exclude, err := out.read()
			if err != nil {
				return err
			}
			saveMemory()
			return o.with(cmd, true, func(ctx context.Context, s *store.Store) error {
				return o.create(ctx, cmd, s, args[0], base, skip, exclude)
			})
		},
	}
	o.flags(c)
	c.Flags().StringVar(&base, "base", "", "snapshot of the same directory: read only what changed since")
	c.Flags().BoolVar(&skip, "skip-unsupported", false, "leave out what can't be kept, with a warning for each")
	c.Flags().StringArrayVar(&out.patterns, "exclude", nil, "leave out what this `PATTERN` is of (repeatable)")
	c.Flags().StringArrayVar(&out.files, "exclude-from", nil, "leave out by the patterns in this `FILE`, one in a line (repeatable)")
	c.MarkFlagFilename("exclude-from")               //nolint:errcheck // the flag exists, one line above
	c.RegisterFlagCompletionFunc("base", o.complete) //nolint:errcheck // the flag exists, two lines above
	return c
}

func (o *opened) create(ctx context.Context, cmd *cobra.Command, s *store.Store, dir, base string, skip bool, exclude *tree.Exclude) error {
	spec := store.CreateSpec{Dir: dir, Exclude: exclude, Progress: &store.Progress{}}
	if base != "" && (base != latest || len(s.List()) > 0) {
		in, err := resolve(s, base)
		if err != nil {
			return err
		}
		spec.Base = in.ID
	}
	var err error
	if spec.DomainKey, err = s.MakeKey(); err != nil {
		return err
	}
	left := omissions{w: cmd.ErrOrStderr()}
	if skip {
		spec.Skip = left.tell
	}
	stop := o.progress(cmd, "saving", spec.Progress)
	made, err := s.Create(ctx, spec)
	stop()
	if err != nil {
		return err
	}
	left.sum()
	if o.asJSON {
		err = printJSON(cmd.OutOrStdout(), created{
			Snapshot: made.ID, Entries: made.Entries, Bytes: made.TreeBytes, BytesNew: made.New,
			BytesStored: made.StoredBytes, WallMS: o.wallMS(), Skipped: left.n,
		})
	} else {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), made.ID)
	}
	if err != nil {
		return fmt.Errorf("snapshot %s is made, but: %w", made.ID, err)
	}
	return nil
}

// checkSource refuses what is no directory, and one that the store would be in, before
// a store is made for it.
func (o *opened) checkSource(dir string) error {
	fi, err := os.Stat(dir)
	var path *fs.PathError
	if errors.As(err, &path) {
		err = fmt.Errorf("%s: %w", dir, path.Err)
	}
	if err != nil {
		return usageError(err, "")
	}
	if !fi.IsDir() {
		return usageError(fmt.Errorf("%s is not a directory", dir), "a snapshot is of a directory")
	}
	for at, err := filepath.Abs(o.dir); err == nil && o.dir != ""; at = filepath.Dir(at) {
		if above, err := os.Stat(at); err == nil && os.SameFile(above, fi) {
			return usageError(fmt.Errorf("the store %s lies in the directory %s: it would hold itself", o.dir, dir), "keep the store elsewhere")
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	return nil
}

// omissions tells of what is left out.
type omissions struct {
	w  io.Writer
	mu sync.Mutex // guards n, and keeps lines whole
	n  int
}

func (l *omissions) tell(e *snapshot.UnsupportedError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	fmt.Fprintln(l.w, "roost: WARNING: left out:", e)
}

func (l *omissions) sum() {
	if l.n > 0 {
		fmt.Fprintf(l.w, "roost: WARNING: the snapshot lacks %d %s named above\n", l.n, plural(l.n, "thing"))
	}
}
