package runner

import (
	"archive/zip"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// collect are the files that the options name, sorted, relative to the working directory.
func collect(o options, out io.Writer) ([]string, error) {
	found := map[string]bool{}
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for _, pattern := range o.paths {
		if filepath.IsAbs(pattern) {
			if pattern, err = filepath.Rel(wd, pattern); err != nil {
				return nil, err
			}
		}
		if err := match(found, pattern, out); err != nil {
			return nil, err
		}
	}
	if o.untracked {
		b, err := exec.Command("git", "ls-files", "-o", "-z").Output()
		if err != nil {
			return nil, err
		}
		for _, name := range strings.Split(strings.Trim(string(b), "\x00"), "\x00") {
			found[name] = name != ""
		}
	}
	var files []string
	for name := range found {
		excluded := slices.ContainsFunc(o.exclude, func(p string) bool {
			ok, _ := doublestar.Match(p, name)
			return ok
		})
		if !excluded && found[name] && !strings.HasPrefix(name, ".git/") && name != ".git" && name != "." {
			files = append(files, name)
		}
	}
	slices.Sort(files)
	return files, nil
}

// match adds what a pattern finds, with all that is in directories.
func match(found map[string]bool, pattern string, out io.Writer) error {
	matches, err := doublestar.FilepathGlob(filepath.Clean(pattern))
	if err != nil {
		return err
	}
	if len(matches) == 0 {
		fmt.Fprintf(out, "WARNING: %s: no matching files.\n", pattern)
	}
	for _, m := range matches {
		if strings.HasPrefix(m, "..") {
			fmt.Fprintf(out, "WARNING: %s: not supported: outside build directory\n", m)
			continue
		}
		err := filepath.WalkDir(m, func(p string, _ fs.DirEntry, err error) error {
			if err == nil {
				found[filepath.Clean(p)] = true
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func archive(w io.Writer, format string, files []string) error {
	switch format {
	case "zip":
		z := zip.NewWriter(w)
		for _, name := range files {
			if err := pack(z, name); err != nil {
				return err
			}
		}
		return z.Close()
	case "gzip", "raw":
		for _, name := range files {
			if err := one(w, format, name); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("archive format %q", format)
}

func one(w io.Writer, format, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if format == "raw" {
		_, err = io.Copy(w, f)
		return err
	}
	g := gzip.NewWriter(w)
	g.Name = name
	if _, err := io.Copy(g, f); err != nil {
		return err
	}
	return g.Close()
}

func pack(z *zip.Writer, name string) error {
	fi, err := os.Lstat(name)
	if err != nil {
		return err
	}
	h, err := zip.FileInfoHeader(fi)
	if err != nil {
		return err
	}
	h.Name, h.Method = name, zip.Deflate
	if fi.IsDir() {
		h.Name, h.Method = name+"/", zip.Store
	}
	w, err := z.CreateHeader(h)
	if err != nil {
		return err
	}
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(name)
		if err != nil {
			return err
		}
		_, err = io.WriteString(w, to)
		return err
	case fi.Mode().IsRegular():
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
	return nil
}

// extract unpacks a zip over what is there; times and modes are those of the archive.
func extract(file, dir string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("%q is outside", f.Name)
		}
		if err := unpack(f, filepath.Join(dir, f.Name)); err != nil {
			return err
		}
	}
	for _, f := range slices.Backward(z.File) { // a directory after what is in it
		if f.Mode()&fs.ModeSymlink == 0 {
			if err := os.Chtimes(filepath.Join(dir, f.Name), f.Modified, f.Modified); err != nil {
				return err
			}
		}
	}
	return nil
}

func unpack(f *zip.File, path string) error {
	if f.FileInfo().IsDir() {
		return os.MkdirAll(path, f.Mode().Perm())
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	if f.Mode()&fs.ModeSymlink != 0 {
		to, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return os.Symlink(string(to), path)
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, f.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r) //nolint:gosec // our own archives
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}
