package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/internal/backing"
)

// ensureBacking makes sure that the store's directory is the file system that the
// configuration wants below it.
func ensureBacking(ctx context.Context, dir string, s configs.Store, log hclog.Logger) error {
	if s.Backing != configs.XFSLoop {
		return forgottenBacking(dir)
	}
	size, err := configs.ParseSize(s.BackingSize)
	if err != nil {
		return usageError(fmt.Errorf("store.backing_size: %w", err), "")
	}
	_, err = backing.Ensure(ctx, backing.Options{Dir: dir, Size: size, Sparse: s.BackingSpace == configs.Sparse, Log: log})
	switch {
	case errors.Is(err, backing.ErrForeign):
		return usageError(err, "nothing was changed")
	case errors.Is(err, backing.ErrRoot):
		return &exitError{code: exitUnreachable, err: err, hint: "run it as root, or set store.backing to none"}
	case errors.Is(err, backing.ErrTool):
		return usageError(err, "install xfsprogs, or set store.backing to none")
	case err != nil:
		return &exitError{code: exitUnreachable, err: err, hint: "see: roost doctor --store-dir " + dir}
	}
	return nil
}

// forgottenBacking refuses to start on an empty directory beside the file that has
// the store.
func forgottenBacking(dir string) error {
	image := backing.ImageOf(dir)
	if _, err := os.Lstat(image); err != nil {
		return nil //nolint:nilerr // there is none, or what follows will tell
	}
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
		return nil // mounted, or a store beside it
	}
	return usageError(fmt.Errorf("%s has a store, and store.backing is none", image), "set store.backing to xfs-loop, or move that file away")
}

// releaseBackings unmounts the backings of all stores in a state directory. Their
// files are deleted with it.
func releaseBackings(ctx context.Context, state string) error {
	images, err := filepath.Glob(filepath.Join(state, backing.ImageOf("*")))
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := backing.Release(ctx, strings.TrimSuffix(image, backing.ImageOf("")), image); err != nil {
			return err
		}
	}
	return nil
}
