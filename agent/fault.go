package agent

import (
	"errors"
	"syscall"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// fault is why a workspace could not be attached, as the coordinator is told.
type fault struct {
	code api.Code
	err  error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// asFault finds the code of an error; the given one if it says nothing.
func asFault(err error, code api.Code) error {
	var (
		f        *fault
		corrupt  *snapshot.CorruptError
		conflict *snapshot.ConflictError
	)
	switch {
	case errors.As(err, &f), errors.As(err, &conflict):
		return err
	case errors.As(err, &corrupt):
		code = api.FailCorrupt
	case errors.Is(err, snapshot.ErrNotFound):
		code = api.FailInput
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, blob.ErrFull):
		code = api.FailDiskFull
	}
	return &fault{code, err}
}
