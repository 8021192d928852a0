//go:build linux

package viewtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// testHostile unpacks lists that no honest host sends. Whatever is refused must
// leave nothing, and a tree beside the store must stay as it is.
func testHostile(t *testing.T, s Suite) {
	h := newHouse(t, s)
	base := h.small()
	outside := filepath.Join(h.dir, "outside")
	require.NoError(t, os.MkdirAll(outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "canary"), []byte("alive"), 0o644))
	before := h.scan(outside)

	put := func(e snapshot.Entry) snapshot.Change { return snapshot.Change{Entry: e} }
	dir := func(p string) snapshot.Change {
		return put(snapshot.Entry{Path: p, Type: snapshot.TypeDir, Mode: 0o755})
	}
	file := func(p string) snapshot.Change {
		return put(snapshot.Entry{Path: p, Type: snapshot.TypeFile, Mode: 0o644, Size: 4})
	}
	link := func(p, to string) snapshot.Change {
		return put(snapshot.Entry{Path: p, Type: snapshot.TypeSymlink, Mode: 0o777, Target: to})
	}
	cases := map[string][]snapshot.Change{
		"two dots":                 {file("../outside/evil")},
		"two dots inside":          {file("a/../../outside/evil")},
		"absolute":                 {file(outside + "/evil")},
		"dot":                      {file("./x")},
		"empty component":          {file("a//x")},
		"NUL":                      {file("a\x00b")},
		"long name":                {file(strings.Repeat("x", 256))},
		"twice":                    {file("x"), file("x")},
		"not sorted":               {file("y"), file("x")},
		"symlink, then through it": {link("l", outside), file("l/evil")},
		"file, then below it":      {file("x"), file("x/y")},
		"below nothing":            {file("nowhere/y")},
		"below a file of the base": {file("a/one/x")},
		"below a link of the base": {file("link/x")},
		"unknown type":             {put(snapshot.Entry{Path: "x", Type: 99})},
		"device by mode":           {put(snapshot.Entry{Path: "x", Type: snapshot.TypeFile, Mode: 0o20644})},
		"negative size":            {put(snapshot.Entry{Path: "x", Type: snapshot.TypeFile, Size: -1})},
		"foreign attribute":        {put(snapshot.Entry{Path: "x", Type: snapshot.TypeFile, Xattrs: []snapshot.Xattr{{Name: "trusted.overlay.redirect", Value: []byte("/etc/passwd")}}})},
		"security attribute":       {put(snapshot.Entry{Path: "x", Type: snapshot.TypeFile, Xattrs: []snapshot.Xattr{{Name: "security.capability", Value: []byte{1}}}})},
		"root is a file":           {put(snapshot.Entry{Type: snapshot.TypeFile})},
		"root is deleted":          {{Delete: true}},
		"links of two sizes": {
			put(snapshot.Entry{Path: "x", Type: snapshot.TypeFile, Size: 1, Link: "x"}),
			put(snapshot.Entry{Path: "y", Type: snapshot.TypeFile, Size: 2, Link: "x"}),
		},
		"link outside":  {put(snapshot.Entry{Path: "y", Type: snapshot.TypeFile, Size: 4, Link: "../outside/canary"})},
		"write too far": {dir("ok"), file("ok/write-beyond")},
		"fill fails":    {dir("ok"), file("ok/fail")},
	}
	for name, changes := range cases {
		t.Run(name, func(t *testing.T) {
			id := h.id()
			_, _, err := h.unpack(id, base.layer, base.tree, changes, func(_ context.Context, write view.WriteFunc) error {
				for i := range changes {
					switch e := changes[i].Entry; {
					case strings.HasSuffix(e.Path, "fail"):
						return errors.New("the network is gone")
					case strings.HasSuffix(e.Path, "beyond"):
						if err := write(i, 2, []byte("beyond")); err != nil {
							return err
						}
					}
				}
				return nil
			})
			require.Error(t, err)
			require.NoDirExists(t, filepath.Join(h.root, "views", string(id)))
		})
	}
	equal(t, lines(before), lines(h.scan(outside)), "something outside was touched")
	h.mounted(h.d, base.layer, base.tree)
}
