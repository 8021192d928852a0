// Package backing makes a store's directory a file system that can clone files,
// on a host whose own can't: XFS in a file, on a loop device. A first write to a
// file of 2 GiB then takes a millisecond instead of a copy.
//
// The file is made once, formatted before it gets its name, and never again. The
// mount outlives the agent, as the views in it do; a restart finds it or makes it
// again. A file that is no XFS, a directory that has files of its own and a mount
// that is somebody else's are left as they are, and reported.
package backing

import (
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"
)

// MinSize is the least size of an image: what mkfs.xfs takes, and some room.
const MinSize = 320 << 20

// Options of Ensure.
type Options struct {
	// Dir is where the file system appears, an absolute path. It is made if absent.
	Dir string
	// Image is the file that has it. "": ImageOf(Dir).
	Image string
	// Size in bytes, rounded down to MiB; at least MinSize. 0: half of what is free
	// where Image lies, when it is made. An image is grown to it and never shrunk.
	Size int64
	// Sparse says that the file takes up room only as it is used. The host's file
	// system can then run full below it, which jobs meet as an I/O error.
	Sparse bool
	// Log gets what was made and what could not be. Default: nothing is logged.
	Log hclog.Logger
}

// Status is what Ensure found or made.
type Status struct {
	Device   string // such as /dev/loop0
	Size     int64  // of the image, bytes
	DirectIO bool   // the loop device does not cache a second time
	Made     bool   // the image is new
	Grown    bool
}

// ErrForeign says that something else stands where the backing would: nothing was
// changed.
var ErrForeign = errors.New("not our backing file")

// ErrTool says that a program is missing; the message names it and its package.
var ErrTool = errors.New("program is missing")

// ErrRoot says that the process may not make loop devices.
var ErrRoot = errors.New("only root can make loop devices and mount them")

// ImageOf is where the image of a store at dir lies unless Options says otherwise.
func ImageOf(dir string) string { return dir + ".xfs" }

func (o Options) withDefaults() (Options, error) {
	if o.Image == "" {
		o.Image = ImageOf(o.Dir)
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	o.Size -= o.Size % (1 << 20)
	if o.Size != 0 && o.Size < MinSize {
		return o, fmt.Errorf("backing of %s: %d bytes are too few, at least %d are needed", o.Dir, o.Size, int64(MinSize))
	}
	return o, nil
}
