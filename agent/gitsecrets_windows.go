package agent

import (
	"io/fs"
	"os"
)

const nonBlock = 0

// sameOwner has nothing to do: what is made here belongs to us, as all that we make.
func sameOwner(*os.File, fs.FileInfo) error { return nil }
