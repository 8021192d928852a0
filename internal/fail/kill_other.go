//go:build failpoints && !unix

package fail

import "os"

func kill() { os.Exit(137) }
