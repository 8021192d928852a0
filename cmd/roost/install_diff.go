package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/roost-ci/roost/internal/install"
	"github.com/roost-ci/roost/internal/runnerconf"
)

// changes compares what is there with what is to be.
func (o *installOptions) changes(p *installPlan, old *install.Journal) ([]change, error) {
	var out []change
	for _, f := range p.files {
		now, err := os.ReadFile(f.Path)
		c := change{Path: f.Path, Action: "change"}
		switch {
		case errors.Is(err, os.ErrNotExist):
			c.Action = "create"
		case err != nil:
			return nil, err
		case bytes.Equal(now, f.Text):
			c.Action = "same"
		}
		if c.Action != "same" && !p.secret[f.Path] {
			from := f.Path
			if c.Action == "create" {
				from = "/dev/null"
			}
			if o.showSecrets {
				c.Diff = install.Diff(from, f.Path, now, f.Text)
			} else {
				c.Diff = hideSecrets(install.Diff(from, f.Path, hideLong(f.Path, now), hideLong(f.Path, f.Text)))
			}
		}
		out = append(out, c)
	}
	if old != nil {
		for _, r := range old.Files {
			if !slices.ContainsFunc(p.files, func(f install.File) bool { return f.Path == r.Path }) {
				action := "restore"
				if r.Before == "" {
					action = "remove"
				}
				out = append(out, change{Path: r.Path, Action: action})
			}
		}
	}
	return out, nil
}

var (
	secretNameRE = regexp.MustCompile(`(?:token|secret|password|accesskey|accountkey|private_?key)`)
	secretKeyRE  = regexp.MustCompile(`(?im)^([ +-][ \t]*"?[a-z_.]*(?:token|secret|password|accesskey|sastoken|accountkey|private_?key)[a-z_]*"?[ \t]*=[ \t]*)("[^"\n]*"|'[^'\n]*')`)
	secretEnvRE  = regexp.MustCompile(`(["'][A-Za-z_][A-Za-z0-9_]*=)[^"'\n]*`)
	secretVarRE  = regexp.MustCompile(`(?m)^([ +-]Environment=).+$`)
	configKeyRE  = regexp.MustCompile(`(?m)^([ +-][ \t]*(?:agent\.)?(?:token_file|token_files|api_token_file|slot_tokens_file)[ \t]*=.*)$`)
)

// hideLong hides in a file in TOML what can't be hidden line by line, such as a
// DOCKER_AUTH_CONFIG with its quotes. A text that is not TOML stays as it is.
func hideLong(path string, text []byte) []byte {
	if filepath.Ext(path) != ".toml" {
		return text
	}
	f, err := runnerconf.Parse(text)
	if err != nil {
		return text
	}
	return f.Hide(func(key string) bool {
		return secretNameRE.MatchString(key) && !strings.HasSuffix(key, "_file") && !strings.HasSuffix(key, "_files")
	})
}

// hideSecrets hides tokens, passwords and the values of variables in a diff.
func hideSecrets(diff string) string {
	paths := configKeyRE.FindAllString(diff, -1)
	diff = secretKeyRE.ReplaceAllString(diff, `$1"***"`)
	for _, p := range paths { // names of files with tokens are none
		hidden := secretKeyRE.ReplaceAllString(p, `$1"***"`)
		diff = strings.Replace(diff, hidden, p, 1)
	}
	return secretEnvRE.ReplaceAllString(secretVarRE.ReplaceAllString(diff, "$1***"), "$1***")
}
