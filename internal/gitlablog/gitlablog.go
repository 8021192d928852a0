// Package gitlablog makes lines that look like those of a runner in a GitLab job's
// log.
//
// Since 19 runners put the time before each line, unless FF_TIMESTAMPS says
// otherwise. GitLab decides by the first line of a log whether all of it has
// times: where the first ones are ours they must be of the runner's kind.
package gitlablog

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// timesSince is the first major version of the runner that writes times by default.
const timesSince = 19

// mostLine bounds one line, in bytes.
const mostLine = 4096

// HasTimes reports whether a runner begins lines with the time. runner is the body of
// its request for a job, or as much of that as is known; flag is the job's
// FF_TIMESTAMPS, "" if it does not say.
func HasTimes(runner json.RawMessage, flag string) bool {
	if on, err := strconv.ParseBool(flag); err == nil {
		return on
	}
	var r struct {
		Info struct {
			Version string `json:"version"`
		} `json:"info"`
	}
	if json.Unmarshal(runner, &r) != nil {
		return true
	}
	major, _, _ := strings.Cut(r.Info.Version, ".")
	n, err := strconv.Atoi(strings.TrimPrefix(major, "v"))
	return err != nil || n >= timesSince // a version of somebody's own is a new one
}

// Line is one line of text, with the time t before it if times is set. What would
// break the line is a space in it.
func Line(t time.Time, times bool, text string) []byte {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || (r < ' ' && r != '\t' && r != '\x1b') {
			return ' '
		}
		return r
	}, text)
	if len(text) > mostLine {
		text = strings.ToValidUTF8(text[:mostLine], "") + " …"
	}
	if times {
		text = t.UTC().Format("2006-01-02T15:04:05.000000Z") + " 00O " + text
	}
	return []byte(text + "\n")
}
