// Package api is the wire between the coordinator and everybody else: the types
// of its HTTP+JSON interface, the paths, the error codes and a client. It is the
// one thing that agent and coordinator share.
//
// Times are milliseconds since 1970 or durations in milliseconds, as the name
// says; sizes are bytes. Unknown fields are ignored, so that either side may be
// the newer one.
package api
