package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/roost-ci/roost/coordinator/api"
)

// Exit statuses, the same for every command.
const (
	exitFailed      = 1   // a job or a check failed
	exitUsage       = 2   // usage or configuration
	exitUnreachable = 3   // the coordinator or a store can't be reached
	exitRefused     = 4   // authorisation, fencing, policy
	exitInterrupted = 130 // Ctrl-C
)

const exitHelp = `

Exit statuses: 0 done; 1 a job or check failed; 2 usage or configuration; 3 the
coordinator or store can't be reached; 4 refused; 130 interrupted.`

var errInterrupted = errors.New("interrupted")

// exitError is an error with an exit status and, where there is one, the cure. A
// nil err exits in silence: everything has been said.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// ownerHint is the cure of what only the owner of a store or a state directory may do.
const ownerHint = "it belongs to one user: run this as the one who made it, or as root"

func usageError(err error, hint string) error {
	return &exitError{code: exitUsage, err: err, hint: hint}
}

// apiError gives an error of the coordinator's its exit status.
func apiError(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return &exitError{code: exitInterrupted, err: context.Cause(ctx)}
	}
	err = fmt.Errorf("%s: %w", what, err)
	var e *api.Error
	if !errors.As(err, &e) {
		return &exitError{code: exitUnreachable, err: err}
	}
	switch e.Code {
	case api.CodeUnauthorized, api.CodeForbidden:
		return &exitError{code: exitRefused, err: err, hint: "is it the token of this coordinator, and the one for people? " + userTokenHint}
	case api.CodeFenced, api.CodeNameTaken:
		return &exitError{code: exitRefused, err: err}
	case api.CodeInternal, api.CodeFull:
		return &exitError{code: exitUnreachable, err: err}
	default:
		return &exitError{code: exitUsage, err: err}
	}
}
