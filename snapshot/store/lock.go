package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// A store is owned by the process that holds the lock on the file "lock". Who
// that is stands in the file "holder" beside it: a locked file can't be read
// everywhere.

// maxHolder bounds what is read from the holder file, which anyone with access to
// the directory could have written.
const maxHolder = 200

// lockPatience is how long a lock may outlive its process: when that was killed while it
// started a program, the child has the lock until it has become that program.
const lockPatience = time.Second

func lock(ctx context.Context, dir string) (*flock.Flock, error) {
	l := flock.New(filepath.Join(dir, "lock"))
	wait, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	ok, err := l.TryLockContext(wait, 5*time.Millisecond)
	if err != nil && (wait.Err() == nil || ctx.Err() != nil) {
		return nil, fmt.Errorf("lock store %s: %w", dir, err)
	}
	if !ok {
		return nil, &LockedError{Dir: dir, Holder: readHolder(dir)}
	}
	// Only a word to people; a store without it works.
	os.WriteFile(filepath.Join(dir, "holder"), []byte(holder()), 0o600) //nolint:errcheck // see above
	return l, nil
}

// holder names this process: its id, program and subcommand. No further
// arguments: they may hold secrets.
func holder() string {
	cmd := filepath.Base(os.Args[0])
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		cmd += " " + os.Args[1]
	}
	return fmt.Sprintf("pid %d (%s)", os.Getpid(), cmd)
}

func readHolder(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "holder"))
	if err != nil {
		return ""
	}
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, string(b[:min(len(b), maxHolder)]))
	return strings.TrimSpace(clean)
}
