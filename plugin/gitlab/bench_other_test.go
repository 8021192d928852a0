//go:build !unix

package gitlab

import "time"

func processTime() time.Duration { return 0 }
