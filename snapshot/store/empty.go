package store

import (
	"context"
	"path/filepath"

	"github.com/roost-ci/roost/snapshot/view"
)

// Empty deletes all that is in dir, such as a slot's directory between two jobs, whoever
// may write to it; see view.Empty. What a crash leaves of it in the store's trash
// goes at the next Open.
func (s *Store) Empty(ctx context.Context, dir string) error {
	return view.Empty(ctx, dir, filepath.Join(s.dir, "trash"), view.Options{Log: s.log})
}
