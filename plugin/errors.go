package plugin

import "errors"

// Errors between agent and plugin that a caller branches on; they are the same on
// either side of the process boundary, as are those of contexts, snapshot.ErrNotFound
// (no such attempt) and snapshot.ErrBusy. Others arrive as their text.
var (
	// ErrInvalid says that the call makes no sense: repeating it won't help.
	ErrInvalid = errors.New("invalid request")
	// ErrUnavailable says that the other side can't be reached, or can't do it
	// now: the call may be repeated later.
	ErrUnavailable = errors.New("not available now")
)

// Error is an error with a word for programs; it, too, arrives as it was sent.
type Error struct {
	Code string // such as MERGE_CONFLICT
	Text string
}

func (e *Error) Error() string { return e.Text }
