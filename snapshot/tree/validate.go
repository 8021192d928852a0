package tree

import (
	"errors"

	"github.com/roost-ci/roost/snapshot"
)

// Validate checks everything that a manifest from outside must satisfy before it
// is used.
func Validate(m *snapshot.Manifest) error { return errors.ErrUnsupported }

// ValidateChanges checks what can be checked of changes without their base.
func ValidateChanges(ch []snapshot.Change) error { return errors.ErrUnsupported }
