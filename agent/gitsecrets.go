package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"syscall"

	"github.com/roost-ci/roost/internal/slots"
)

// Bounds of what is looked at: no configuration of git's comes near them.
const (
	maxGitConfig  = 1 << 20
	maxSubmodules = 10_000
)

var (
	// urlUser is who logs in, and with what, in an address: a runner's git has the
	// job's token there.
	urlUser = regexp.MustCompile(`(?i)(https?://)[^/\s"@]+@`)
	// header is an HTTP header that git sends, up to its end over lines.
	header = regexp.MustCompile(`(?im)(^|\])([ \t]*)extraheader[ \t]*=(?:[^\n\\]|\\\n|\\.)*`)
)

// scrubGit takes credentials out of the git configuration in a view whose job is over:
// the job's token must not be in what its children start from. Files without any are not
// written to. It never leaves the view's slot, whatever links the job made.
func scrubGit(view string) error {
	root, err := slots.OpenView(view)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // a directory
	errs := []error{scrubConfig(root, ".git/config")}
	if _, err := root.Lstat(".git/modules"); err == nil {
		seen := 0
		err := fs.WalkDir(root.FS(), ".git/modules", func(p string, d fs.DirEntry, err error) error {
			if seen++; seen > maxSubmodules {
				return errors.New("too many files below .git/modules")
			}
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "objects" || d.Name() == "refs" || d.Name() == "logs"):
				return fs.SkipDir
			case !d.IsDir() && d.Name() == "config":
				return scrubConfig(root, p)
			}
			return nil
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// scrubConfig does it for one file, as git itself would write it: under a name beside
// it that is taken for nothing, then whole.
func scrubConfig(root *os.Root, name string) error {
	fi, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() { // of no runner's making
		return nil
	}
	if fi.Size() > maxGitConfig {
		return fmt.Errorf("%s has %d bytes: too many for git's configuration", name, fi.Size())
	}
	was, err := readBounded(root, name)
	if err != nil {
		return err
	}
	is := scrubbed(was)
	if bytes.Equal(was, is) {
		return nil
	}
	lock := path.Join(path.Dir(name), "config.lock")
	if err := root.Remove(lock); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(lock, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(is)
	if err == nil {
		err = sameOwner(f, fi)
	}
	if err == nil {
		err = f.Chmod(fi.Mode().Perm())
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		root.Remove(lock) //nolint:errcheck // the first error is the one to tell
		return err
	}
	return root.Rename(lock, name)
}

func readBounded(root *os.Root, name string) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|nonBlock, 0) // a pipe by now does not stop us
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxGitConfig))
}

// scrubbed is a configuration without credentials.
func scrubbed(b []byte) []byte {
	b = urlUser.ReplaceAll(b, []byte("$1"))
	return header.ReplaceAll(b, []byte("$1$2"))
}
