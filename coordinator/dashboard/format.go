package dashboard

import (
	"fmt"
	"html/template"
	"regexp"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
)

var funcs = template.FuncMap{
	"bytes": bytesText, "ms": msText, "at": at, "class": class, "join": join, "spare": spare, "ago": ago, "took": took,
	"after": after, "counts": counts, "failed": failed, "plain": plain,
}

func bytesText(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n) / (1 << 10)
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		if f < 1<<10 {
			return fmt.Sprintf("%.1f %s", f, unit)
		}
		f /= 1 << 10
	}
	return fmt.Sprintf("%.1f TiB", f)
}

// msText writes a duration in milliseconds, of any kind of number.
func msText(v any) string {
	var ms float64
	switch n := v.(type) {
	case float64:
		ms = n
	case int64:
		ms = float64(n)
	}
	switch {
	case ms <= 0:
		return "–"
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1e3:
		return fmt.Sprintf("%.0f ms", ms)
	case ms < 60e3:
		return fmt.Sprintf("%.1f s", ms/1e3)
	}
	return (time.Duration(ms) * time.Millisecond).Round(time.Second).String()
}

func at(ms int64) string {
	if ms == 0 {
		return "–"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 UTC")
}

func ago(now time.Time, ms int64) string {
	if ms == 0 {
		return "never"
	}
	return max(now.Sub(time.UnixMilli(ms)), 0).Round(time.Second).String() + " ago"
}

// took is how long a pipeline ran, or runs.
func took(now time.Time, p api.Pipeline) string {
	end := p.EndedMS
	if end == 0 {
		end = now.UnixMilli()
	}
	return msText(end - p.CreatedMS)
}

// class is the style of a status; one that is not known has none of its own.
func class(s any) string {
	switch v := fmt.Sprint(s); v {
	case "success", "failed", "canceled", "skipped", "running", "assigned", "queued", "pending", "ready", "lost", "left":
		return "is-" + v
	}
	return "is-other"
}

func join(l []string) string { return strings.Join(l, ", ") }

// spare is the share of bytes that did not have to move, in percent.
func spare(m Moves) string {
	if m.Needed == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*(1-float64(m.Moved)/float64(m.Needed)))
}

// after is when something was, from the beginning of its pipeline.
func after(began, ms int64) string {
	if ms <= began {
		return "0 s"
	}
	return msText(ms - began)
}

// count is how many jobs have a status.
type count struct {
	Status api.Status
	N      int
}

// counts tells how many jobs of a pipeline have each status: what went wrong first, then what goes on.
func counts(jobs []api.Job) []count {
	order := []api.Status{
		api.StatusFailed, api.StatusRunning, api.StatusAssigned, api.StatusQueued, api.StatusPending,
		api.StatusSuccess, api.StatusSkipped, api.StatusCanceled,
	}
	n := map[api.Status]int{}
	for _, j := range jobs {
		n[j.Status]++
	}
	var out []count
	for _, s := range order {
		if n[s] > 0 {
			out = append(out, count{s, n[s]})
		}
	}
	return out
}

// maxFailed bounds the list of jobs that are linked at the top of a page.
const maxFailed = 20

// link leads to a job's row.
type link struct {
	Row  int
	Name string
}

// failed lists the first of a pipeline's jobs that failed.
func failed(jobs []api.Job) []link {
	var out []link
	for i, j := range jobs {
		if j.Status == api.StatusFailed && len(out) < maxFailed {
			out = append(out, link{i, j.Name})
		}
	}
	return out
}

// escapeRE is a command to a terminal, such as a colour: ESC [ … letter, ESC ] … BEL,
// or ESC and a character.
var escapeRE = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b\n]*(?:\x07|\x1b\\\\)|\x1b[^\n]?")

// plain makes a job's output readable where there is no terminal: without colours,
// and of a line that was written over and over what stood there last.
func plain(text string) string {
	lines := strings.Split(escapeRE.ReplaceAllString(strings.ToValidUTF8(text, "\ufffd"), ""), "\n")
	for i, l := range lines {
		l = strings.TrimRight(l, "\r")
		lines[i] = l[strings.LastIndexByte(l, '\r')+1:]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || 0x7f <= r && r < 0xa0 {
			return -1
		}
		return r
	}, strings.Join(lines, "\n"))
}
