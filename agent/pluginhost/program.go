package pluginhost

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// Refusals of a program. What it is must be changed by people.
var (
	// ErrPin says that a program is not the one whose checksum is configured.
	ErrPin = errors.New("not the program that was pinned")
	// ErrWritable says that others than root and this user could have put it there.
	ErrWritable = errors.New("others may write there")
)

// Program is a plugin's program.
type Program struct {
	// Path is the program, an absolute path. "" stands for this very program, the
	// one that runs, even if its file was replaced meanwhile.
	Path string
	Args []string // after its name
	// SHA256 is the program's checksum, 64 hexadecimal digits. "": not pinned. What is pinned has
	// to be a binary: of a script only the interpreter would be the one that was checked.
	SHA256 string
}

func (p Program) valid() error {
	if p.Path != "" && !filepath.IsAbs(p.Path) {
		return fmt.Errorf("program %q: want an absolute path", p.Path)
	}
	if p.SHA256 == "" {
		return nil
	}
	if p.Path == "" {
		return errors.New("a checksum for this very program means nothing")
	}
	if _, err := snapshot.ParseDigest(strings.ToLower(p.SHA256)); err != nil {
		return fmt.Errorf("checksum of %s: %w", p.Path, err)
	}
	return nil
}

// opened is a program that was checked and not yet started.
type opened struct {
	name string   // its argv[0]
	path string   // what to execute
	file *os.File // what was checked; nil for this very program
	was  fs.FileInfo
}

// open checks a program. A pinned one is opened once; what is hashed is what is
// executed, whatever happens to its name between the two (where the system has a
// name for an open file: Linux).
func (p Program) open() (*opened, error) {
	if p.Path == "" {
		self, err := selfPath()
		if err != nil {
			return nil, fmt.Errorf("this program: %w", err)
		}
		return &opened{name: os.Args[0], path: self}, nil
	}
	real, err := checkPath(p.Path)
	if err != nil {
		return nil, fmt.Errorf("plugin's program: %w", err)
	}
	f, err := os.Open(real)
	if err != nil {
		return nil, fmt.Errorf("plugin's program: %w", err)
	}
	o := &opened{name: p.Path, path: real, file: f}
	if err := o.check(p); err != nil {
		o.close()
		return nil, fmt.Errorf("plugin's program %s: %w", p.Path, err)
	}
	return o, nil
}

func (o *opened) check(p Program) error {
	var err error
	if o.was, err = o.file.Stat(); err != nil {
		return err
	}
	if !o.was.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if err := onlyOurs(o.was); err != nil {
		return err
	}
	if p.SHA256 == "" {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, o.file); err != nil {
		return err
	}
	if got := snapshot.Digest(h.Sum(nil)).String(); got != strings.ToLower(p.SHA256) {
		return fmt.Errorf("%w: its checksum is %s, configured is %s", ErrPin, got, strings.ToLower(p.SHA256))
	}
	o.path = fdPath(o.file, o.path)
	return nil
}

// unchanged says, once it runs, that nobody wrote to the file since it was opened.
func (o *opened) unchanged() error {
	if o.file == nil {
		return nil
	}
	now, err := o.file.Stat()
	if err != nil {
		return err
	}
	if now.Size() != o.was.Size() || !now.ModTime().Equal(o.was.ModTime()) {
		return fmt.Errorf("plugin's program %s: %w: it was written to while it was started", o.name, ErrPin)
	}
	return nil
}

func (o *opened) close() {
	if o.file != nil {
		o.file.Close()
	}
}
