package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

func newSnapshotMount() *cobra.Command {
	var (
		o      opened
		detach bool
	)
	c := &cobra.Command{
		Use:   "mount SNAP DIR",
		Short: "Show a snapshot's tree at a directory, read-only",
		Long: `Mounts SNAP read-only at DIR, which is made if absent and must be empty, until
Ctrl-C; the store is held until then. With --detach the command ends and the mount
stays, until roost snapshot umount DIR; the store can be used meanwhile.

The first mount of a snapshot unpacks its content in the store; later ones only
mount. Without root, or another system than Linux, DIR gets a copy, which is deleted
at the end; there is no --detach then.` + exitHelp,
		Example:           "  roost snapshot mount latest /mnt/yesterday --detach --store /var/backups/roost\n  roost snapshot umount /mnt/yesterday",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: o.completeSnaps(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, false, func(ctx context.Context, s *store.Store) error {
				return o.mount(ctx, cmd, s, args[0], args[1], detach)
			})
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&detach, "detach", false, "leave it mounted and end")
	c.Flags().StringVar(&o.driver, "driver", "", "how it is shown: auto, or a driver's name (see roost doctor)")
	offer(c, "driver", configs.Drivers...)
	return c
}

func (o *opened) mount(ctx context.Context, cmd *cobra.Command, s *store.Store, name, dir string, detach bool) error {
	in, err := resolve(s, name)
	if err != nil {
		return err
	}
	if dir, err = mountPoint(dir, detach); err != nil {
		return err
	}
	meter := &view.Meter{}
	stop := o.progressOf(cmd, "unpacking", func() (total, done int64) { return in.TreeBytes, meter.Written() })
	err = s.Materialise(ctx, in.ID, meter)
	stop()
	if err != nil {
		return err
	}
	if detach {
		if dir, err = o.leave(ctx, s, in.ID, dir); err != nil {
			return err
		}
		return o.sayMounted(cmd, in.ID, dir)
	}
	shown, err := s.Mount(ctx, in.ID, dir)
	if err != nil {
		return err
	}
	if err := o.sayMounted(cmd, in.ID, dir); err != nil {
		return err
	}
	<-ctx.Done()
	if err := shown.Close(); err != nil {
		return &exitError{
			code: exitFailed, err: fmt.Errorf("%s stays mounted: %w", dir, err),
			hint: "somebody's working directory or open file is in it: end that, then roost snapshot umount " + dir,
		}
	}
	return context.Cause(ctx)
}

// mountPoint checks, before anything that may take long, that dir can be one, and makes
// its path absolute.
func mountPoint(dir string, detach bool) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if detach && (runtime.GOOS != "linux" || os.Geteuid() != 0) {
		return "", usageError(errors.New("only root on Linux can leave something mounted"), "without --detach it is shown until Ctrl-C")
	}
	names, err := os.ReadDir(dir)
	if errors.Is(err, syscall.ENOTDIR) {
		return "", usageError(fmt.Errorf("%s is not a directory", dir), "want an empty or an absent directory")
	}
	if len(names) > 0 {
		if isMountPoint(dir) {
			return "", usageError(fmt.Errorf("something is mounted at %s already", dir), "roost snapshot umount "+dir+" ends it, if it is a snapshot")
		}
		return "", usageError(fmt.Errorf("%s is not empty", dir), "want an empty or an absent directory")
	}
	return dir, nil
}

// leave mounts what is unpacked at dir for longer than the command. It returns the real
// path.
func (o *opened) leave(ctx context.Context, s *store.Store, id snapshot.ID, dir string) (string, error) {
	shown, err := s.Mount(ctx, id, dir)
	if err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", errors.Join(err, shown.Close())
	}
	if !isMountPoint(dir) {
		return "", errors.Join(usageError(errors.New("nothing can be mounted here, only copied"), "without --detach it is shown until Ctrl-C"), shown.Close())
	}
	if err := s.SetShown(append(o.shown, store.Shown{ID: id, Target: dir})); err != nil {
		return "", errors.Join(err, shown.Close())
	}
	return dir, nil
}

func (o *opened) sayMounted(cmd *cobra.Command, id snapshot.ID, dir string) error {
	if !o.asJSON {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is at %s\n", id, dir)
		return err
	}
	return printJSON(cmd.OutOrStdout(), struct {
		Snapshot snapshot.ID `json:"snapshot"`
		Dir      string      `json:"dir"`
		WallMS   float64     `json:"wall_ms"`
	}{id, dir, o.wallMS()})
}

func newSnapshotUmount() *cobra.Command {
	c := &cobra.Command{
		Use:     "umount DIR",
		Short:   "End a mount that --detach left",
		Long:    `Unmounts DIR and removes it. The snapshot stays in its store.` + exitHelp,
		Example: "  roost snapshot umount /mnt/yesterday",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := filepath.EvalSymlinks(args[0])
			if err == nil {
				dir, err = filepath.Abs(dir)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return usageError(fmt.Errorf("nothing is mounted at %s: there is no such directory", args[0]), "")
			}
			if err != nil {
				return usageError(err, "")
			}
			if err := unmountShown(dir); err != nil {
				return err
			}
			os.Remove(dir) //nolint:errcheck // not empty: it is somebody's
			return nil
		},
	}
	return c
}

// readShown reads what is mounted for longer than a process, and forgets what
// people have unmounted.
func (o *opened) readShown() map[string]bool {
	o.shown = slices.DeleteFunc(store.ReadShown(o.dir), func(m store.Shown) bool { return !isMountPoint(m.Target) })
	keep := map[string]bool{}
	for _, m := range o.shown {
		keep[m.Target] = true
	}
	return keep
}
