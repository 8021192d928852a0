package tree

import (
	"errors"

	"github.com/roost-ci/roost/snapshot"
)

// Diff lists what turns base (nil: nothing) into t. Both are valid manifests. It
// lists every entry that is not Equal, so also a name whose group of hard links
// got another first name.
func Diff(base, t *snapshot.Manifest) []snapshot.Change { return nil }

// Apply returns base (nil: nothing) with changes made to it.
func Apply(base *snapshot.Manifest, changes []snapshot.Change) (*snapshot.Manifest, error) {
	return nil, errors.ErrUnsupported
}

// Compose returns one list of changes that does to a tree what a and then b do.
func Compose(a, b []snapshot.Change) []snapshot.Change { return nil }
