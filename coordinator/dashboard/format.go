package dashboard

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
)

var funcs = template.FuncMap{
	"bytes": bytesText, "ms": msText, "at": at, "class": class, "join": join, "spare": spare, "ago": ago, "took": took,
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
