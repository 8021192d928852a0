package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// found is a line of ls SNAP with --json.
type found struct {
	Path      string `json:"path"`
	PathBytes string `json:"path_base64,omitempty"` // where the path is not UTF-8
	Type      string `json:"type"`
	Mode      string `json:"mode"` // octal
	UID       uint32 `json:"uid"`
	GID       uint32 `json:"gid"`
	Bytes     int64  `json:"bytes"`
	MTimeMS   int64  `json:"mtime_ms"` // since 1970
	Target    string `json:"target,omitempty"`
	Link      string `json:"link,omitempty"` // the first of a hard-linked file's names
}

// contents lists what is in a snapshot: all, or what lies at one path.
func (o *opened) contents(ctx context.Context, cmd *cobra.Command, s *store.Store, name, at string, long bool) error {
	in, err := resolve(s, name)
	if err != nil {
		return err
	}
	at, err = pathIn(at)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(cmd.OutOrStdout())
	n := 0
	err = s.Entries(ctx, in.ID, func(e *snapshot.Entry) error {
		if at != "" && e.Path != at && !strings.HasPrefix(e.Path, at+"/") {
			return nil
		}
		n++
		switch {
		case o.asJSON:
			return printJSON(w, foundOf(e))
		case long:
			_, err := fmt.Fprintln(w, longLine(e))
			return err
		}
		_, err := fmt.Fprintln(w, showName(e.Path))
		return err
	})
	if err == nil && n == 0 {
		err = noPath(at)
	}
	return errors.Join(err, w.Flush())
}

// pathIn makes of what people write a path in a snapshot: "" is all of it.
func pathIn(p string) (string, error) {
	for _, name := range strings.Split(p, "/") {
		if name == ".." {
			return "", usageError(fmt.Errorf("%q leads out of the snapshot", p), "paths are those in the directory that was saved, without its own name")
		}
	}
	return strings.TrimPrefix(path.Clean("/"+p), "/"), nil
}

// noPath says that a snapshot has nothing at a path.
func noPath(at string) error {
	return usageError(fmt.Errorf("the snapshot has no %q", at), "paths are those in the directory that was saved, without its own name: roost snapshot ls SNAP lists them")
}

func foundOf(e *snapshot.Entry) found {
	out := found{
		Path: e.Path, Type: e.Type.String(), Mode: fmt.Sprintf("%04o", e.Mode), UID: e.UID, GID: e.GID, Bytes: e.Size,
		MTimeMS: time.Unix(0, e.MTime).UnixMilli(), Target: e.Target, Link: e.Link,
	}
	if out.Path == "" {
		out.Path = "."
	}
	if !utf8.ValidString(e.Path) {
		out.PathBytes = base64.StdEncoding.EncodeToString([]byte(e.Path))
	}
	return out
}

// letters are those that ls(1) has for types.
var letters = map[snapshot.Type]string{
	snapshot.TypeDir: "d", snapshot.TypeFile: "-", snapshot.TypeSymlink: "l", snapshot.TypeFifo: "p", snapshot.TypeSocket: "s",
}

// longLine is a line as tar and borg have it.
func longLine(e *snapshot.Entry) string {
	owner := fmt.Sprintf("%d/%d", e.UID, e.GID)
	line := fmt.Sprintf("%s%s %-9s %11d  %s  %s", letters[e.Type], permissions(e.Mode), owner, e.Size,
		time.Unix(0, e.MTime).Format(time.DateTime), showName(e.Path))
	switch {
	case e.Type == snapshot.TypeSymlink:
		line += " -> " + showName(e.Target)
	case !e.FirstLink():
		line += " link to " + showName(e.Link)
	}
	return line
}

// permissions are those of a mode as ls(1) has them.
func permissions(mode uint32) string {
	b := []byte("rwxrwxrwx")
	for i := range b {
		if mode&(0o400>>i) == 0 {
			b[i] = '-'
		}
	}
	for _, s := range []struct {
		bit    uint32
		at     int
		letter byte
	}{{0o4000, 2, 's'}, {0o2000, 5, 's'}, {0o1000, 8, 't'}} {
		if mode&s.bit == 0 {
			continue
		}
		if b[s.at] == 'x' {
			b[s.at] = s.letter
		} else {
			b[s.at] = s.letter - 'a' + 'A'
		}
	}
	return string(b)
}

func newSnapshotCat() *cobra.Command {
	var o opened
	c := &cobra.Command{
		Use:   "cat SNAP PATH",
		Short: "Print one file of a snapshot",
		Long: `Writes the content of one file to standard output, when every byte of it was compared
with its digest. PATH is that in the directory which was saved. It needs room for the
file in the store meanwhile.` + exitHelp,
		Example:           "  roost snapshot cat latest etc/fstab --store /var/backups/roost",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: o.completeSnaps(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, false, func(ctx context.Context, s *store.Store) error {
				in, err := resolve(s, args[0])
				if err != nil {
					return err
				}
				at, err := pathIn(args[1])
				if err != nil {
					return err
				}
				err = s.WriteFile(ctx, in.ID, at, cmd.OutOrStdout())
				switch {
				case errors.Is(err, fs.ErrNotExist):
					return noPath(at)
				case errors.Is(err, store.ErrNoFile):
					return usageError(err, "roost snapshot ls SNAP PATH lists a directory, restore --path brings it back")
				}
				return err
			})
		},
	}
	o.flags(c)
	return c
}
