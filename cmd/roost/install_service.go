package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// runnerUnit is what the runner's own unit says.
type runnerUnit struct {
	known                  bool
	program, workDir, user string
	// kept are the lines that the slots' unit takes over, each with its end.
	kept string
	// secret: a file that they are from is not for everybody to read.
	secret bool
}

// keptKeys are settings of the runner's own unit that its jobs get to feel: a proxy, a
// limit. Others are about its life, or share out what several processes now share.
var keptKeys = []string{"Environment", "EnvironmentFile", "PassEnvironment", "UnsetEnvironment", "UMask", "Nice"}

// runnerService reads how gitlab-runner is started here: its unit, and what people added
// to that with systemctl edit.
func runnerService(units string) (out runnerUnit) {
	dirs := []string{units, "/usr/lib/systemd/system", "/lib/systemd/system"}
	for _, dir := range dirs {
		if out.file(filepath.Join(dir, "gitlab-runner.service")) {
			break
		}
	}
	for _, f := range dropIns(dirs) {
		out.file(f)
	}
	return out
}

// file takes over what a file says, if it is there.
func (u *runnerUnit) file(path string) bool {
	b, err := os.ReadFile(path)
	fi, statErr := os.Stat(path)
	if err != nil || statErr != nil {
		return false
	}
	before := u.kept
	u.read(string(b))
	u.secret = u.secret || u.kept != before && fi.Mode()&0o004 == 0
	return true
}

// dropIns are the files beside the unit, in systemd's order: by name, of two with one
// name the one of the first directory.
func dropIns(dirs []string) []string {
	byName := map[string]string{}
	for _, dir := range dirs {
		found, _ := filepath.Glob(filepath.Join(dir, "gitlab-runner.service.d", "*.conf")) // the pattern is ours, but for a directory
		for _, f := range found {
			if _, ok := byName[filepath.Base(f)]; !ok {
				byName[filepath.Base(f)] = f
			}
		}
	}
	var out []string
	for _, n := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[n])
	}
	return out
}

// read takes over what one file says.
func (u *runnerUnit) read(text string) {
	service := false
	for l := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[") {
			service = l == "[Service]"
		}
		key, value, ok := strings.Cut(l, "=")
		key = strings.TrimSpace(key)
		switch {
		case !ok || !service:
		case key == "ExecStart" && strings.TrimSpace(value) != "":
			u.command(value)
		case slices.Contains(keptKeys, key) || strings.HasPrefix(key, "Limit"):
			u.kept += l + "\n"
		}
	}
}

// command reads the flags of ExecStart.
func (u *runnerUnit) command(line string) {
	u.known, u.program, u.workDir, u.user = true, "", "", ""
	words := strings.Fields(strings.ReplaceAll(line, `"`, " "))
	for i, word := range words {
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		switch {
		case i == 0:
			u.program = strings.TrimLeft(word, "-@:+!")
		case word == "--working-directory" || word == "-d":
			u.workDir = next
		case word == "--user" || word == "-u":
			u.user = next
		}
	}
}
