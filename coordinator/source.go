package coordinator

import (
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/roost-ci/roost/coordinator/api"
)

// invalid is the answer to a call that can not be meant as it is.
func invalid(format string, args ...any) error {
	return &api.Error{HTTP: 400, Code: api.CodeInvalid, Text: fmt.Sprintf(format, args...)}
}

// checkSubmit refuses what can't be a pipeline before it is parsed.
func (s *Server) checkSubmit(key string, sub api.Submit) error {
	switch {
	case key == "" || len(key) > maxKey || !printable(key):
		return invalid("the header %s must have 1 to %d printable characters", api.HeaderKey, maxKey)
	case sub.Project == "" || len(sub.Project) > maxProject || !printable(sub.Project):
		return invalid("a project's name has 1 to %d printable characters", maxProject)
	case len(sub.File) > 4096 || !printable(sub.File):
		return invalid("the file's name has up to 4096 printable characters")
	case len(sub.Variables) > maxVariables:
		return invalid("%d variables; up to %d are allowed", len(sub.Variables), maxVariables)
	}
	for k, v := range sub.Variables {
		if !variableName.MatchString(k) || strings.ContainsRune(v, 0) {
			return invalid("variable %.80q: want a name of letters, digits and _, and a value without NUL", k)
		}
	}
	if sub.Source == nil {
		return nil
	}
	return s.checkSource(*sub.Source)
}

var (
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,254}$`)
	commitName   = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	// refName allows the names that git does, save those with which anything odd can
	// be said.
	refName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./+@#-]{0,254}$`)
	// scpForm is git's short form of an ssh address.
	scpForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[A-Za-z0-9_~/][^\s]*$`)
)

// checkSource refuses a source that is not one, and one with which git could be
// told something else than where to fetch from.
func (s *Server) checkSource(src api.Source) error {
	if (src.Dir == "") == (src.URL == "") {
		return invalid("a source has a directory or a URL, not both and not neither")
	}
	if src.Commit != "" && !commitName.MatchString(src.Commit) {
		return invalid("commit %.80q: want 40 or 64 hexadecimal digits", src.Commit)
	}
	if src.Ref != "" && (!refName.MatchString(src.Ref) || strings.Contains(src.Ref, "..")) {
		return invalid("ref %.80q is not a name that is allowed here", src.Ref)
	}
	if src.Dir != "" {
		if !s.o.AllowLocalSource {
			return &api.Error{HTTP: 403, Code: api.CodeForbidden, Text: "this coordinator serves no local directories; give a URL to fetch the source from"}
		}
		if !filepath.IsAbs(src.Dir) || strings.ContainsRune(src.Dir, 0) {
			return invalid("source directory %.200q: want an absolute path", src.Dir)
		}
		return nil
	}
	if scpForm.MatchString(src.URL) {
		return nil
	}
	u, err := url.Parse(src.URL)
	if err != nil || u.Host == "" || strings.HasPrefix(u.Host, "-") || !strings.Contains(" https http ssh git ", " "+u.Scheme+" ") {
		return invalid("source %.200q: want an https, http, ssh or git URL", src.URL)
	}
	return nil
}

// printable reports whether s is text without control characters.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, unicode.IsControl) < 0
}
