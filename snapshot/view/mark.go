package view

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// markName is the file in a store's root that says which driver made its layers.
// Another one would not see what they are and show something else, without any
// error.
const markName = "driver"

const markHeader = "roost-driver 1"

// ErrOtherDriver says that a store's layers are another driver's.
var ErrOtherDriver = errors.New("the store was made by another view driver")

// readers has for each driver which others can use its layers as they are.
var readers = map[string][]string{
	NameOverlay: {NameErofs}, // an image is one more thing below the same directories
	NameReflink: {NameCopy},
	NameCopy:    {NameReflink},
}

// Usable tells why the named driver can't be used for the store at root, nil if it
// can. A root without layers is anybody's.
func Usable(root, name string) error {
	made, err := readMark(root)
	if err != nil || made == "" || made == name || slices.Contains(readers[made], name) {
		return err
	}
	if layers, err := readNames(filepath.Join(root, viewsDir)); err == nil && len(layers) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %q, not %q", ErrOtherDriver, made, name)
}

// readMark returns the driver that made the layers at root, "" if none did.
func readMark(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, markName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(string(b), markHeader+"\n")
	name, end := strings.CutSuffix(name, "\n")
	if !ok || !end {
		return "", &snapshot.CorruptError{What: "file", Name: filepath.Join(root, markName), Why: fmt.Sprintf("it has %.60q", b)}
	}
	return name, nil
}

// writeMark writes down who makes layers at root from now on.
func writeMark(root, name string) error {
	if made, err := readMark(root); err != nil || made == name {
		return err
	}
	return durable.WriteFile(filepath.Join(root, markName), 0o600, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s\n%s\n", markHeader, name)
		return err
	})
}
