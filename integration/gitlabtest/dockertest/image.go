//go:build linux

package dockertest

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs are what an image has that needs no more than a shell and git.
var Programs = []string{
	"bash", "sh", "git", "cat", "ls", "mkdir", "rm", "rmdir", "cp", "mv", "ln", "sleep", "seq", "tr", "sort", "uniq", "head", "tail", "wc",
	"stat", "touch", "chmod", "chown", "env", "id", "true", "false", "date", "dirname", "basename", "readlink", "hostname", "find",
	"grep", "sed", "awk", "make", "tar", "cmp", "sha256sum", "mktemp", "uname", "expr", "du", "dd", "tee", "xargs", "kill", "ps",
}

// Image makes an image of this machine's programs and the libraries that they need, and
// imports it under that name; as a service it waits. Programs that aren't there are left out. With git it has
// all of git's own programs and the certificates' directory.
func (d *Daemon) Image(name string, programs ...string) {
	d.t.Helper()
	d.make(name, []string{`CMD ["sleep", "86400"]`}, programs)
}

// Service makes an image that runs this program, with a variable and arguments.
func (d *Daemon) Service(name, env string, args ...string) {
	d.t.Helper()
	self, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	cmd, err := json.Marshal(append([]string{self}, args...))
	if err != nil {
		d.t.Fatal(err)
	}
	d.make(name, []string{"ENV " + env, "CMD " + string(cmd)}, []string{self})
}

func (d *Daemon) make(name string, changes, programs []string) {
	d.t.Helper()
	if len(programs) == 0 {
		programs = Programs
	}
	im := &image{d: d, seen: map[string]bool{}}
	im.w = tar.NewWriter(&im.buf)
	for _, dir := range []string{"tmp", "root", "etc", "proc", "sys", "dev", "builds", "cache"} {
		im.must(im.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o1777}))
	}
	im.text("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
	im.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
	im.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
	for _, p := range programs {
		if path, err := exec.LookPath(p); err == nil {
			im.file(path, "")
			im.file(path, "/bin/"+p) // where /bin is no link to /usr/bin
		}
		if p == "git" {
			im.tree("/usr/lib/git-core")
			im.tree("/usr/share/git-core/templates")
		}
	}
	im.must(im.w.Close())
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	if out, err := d.docker(d.t.Context(), &im.buf, append(args, "-", name)...); err != nil {
		d.t.Fatalf("docker import: %v: %s", err, out)
	}
}

type image struct {
	d    *Daemon
	buf  bytes.Buffer
	w    *tar.Writer
	seen map[string]bool
}

func (im *image) must(err error) {
	im.d.t.Helper()
	if err != nil {
		im.d.t.Fatal(err)
	}
}

func (im *image) text(name, content string) {
	im.must(im.w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
	_, err := io.WriteString(im.w, content)
	im.must(err)
}

// file adds a file under its own name or another one, and what it needs to run.
func (im *image) file(path, as string) {
	if as == "" {
		as = path
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil || im.seen[as] {
		return
	}
	im.seen[as] = true
	b, err := os.ReadFile(real)
	im.must(err)
	fi, err := os.Stat(real)
	im.must(err)
	im.must(im.w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(as, "/"), Mode: int64(fi.Mode().Perm()), Size: int64(len(b))}))
	_, err = im.w.Write(b)
	im.must(err)
	if e, err := elf.NewFile(bytes.NewReader(b)); err == nil && fi.Mode()&0o111 != 0 {
		dynamic := false
		for _, p := range e.Progs {
			dynamic = dynamic || p.Type == elf.PT_INTERP
		}
		if dynamic {
			im.libraries(real)
		}
	}
}

// libraries are those that the loader names for a program.
func (im *image) libraries(program string) {
	out, err := exec.Command("ldd", program).Output()
	im.must(err)
	for line := range strings.SplitSeq(string(out), "\n") {
		for f := range strings.FieldsSeq(line) {
			if strings.HasPrefix(f, "/") {
				im.file(f, "")
			}
		}
	}
}

func (im *image) tree(dir string) {
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if to, lerr := os.Readlink(p); lerr == nil && !filepath.IsAbs(to) {
			im.must(im.w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(p, "/"), Linkname: to, Mode: 0o777}))
			return nil
		}
		im.file(p, "")
		return nil
	})
	im.must(err)
}
