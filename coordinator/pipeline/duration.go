package pipeline

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxTimeout is the longest timeout, as in GitLab.
const maxTimeout = 30 * 24 * time.Hour

var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hrs": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
	"mo": 30 * 24 * time.Hour, "month": 30 * 24 * time.Hour, "months": 30 * 24 * time.Hour,
}

// unitWords are those of units that a misspelt one is compared with.
var unitWords = []string{
	"seconds", "minutes", "hours", "days", "weeks", "months", "second", "minute", "hour", "day", "week", "month",
	"sec", "secs", "min", "mins", "hr", "hrs",
}

var durationPart = regexp.MustCompile(`^(?:(\d{1,9}(?:\.\d{1,9})?)\s*([a-z]*)|and)(?:\s*,\s*|\s+|$|)`)

// parseDuration reads the forms that GitLab's documentation shows: "1h 30m",
// "3 hours and 20 minutes", "90 seconds", "1.5h", "1w, 2 days". Every number needs
// a unit. The result is above 0 and at most maxTimeout.
func parseDuration(s string) (time.Duration, error) {
	rest := strings.ToLower(strings.TrimSpace(s))
	total, parts := time.Duration(0), 0
	for rest != "" {
		m := durationPart.FindStringSubmatch(rest)
		if m == nil {
			return 0, fmt.Errorf("%s is no duration; write it as 1h 30m or 90 minutes", quote(s))
		}
		rest = rest[len(m[0]):]
		if m[1] == "" {
			if parts == 0 || rest == "" {
				return 0, fmt.Errorf("%s is no duration: a number is missing beside \"and\"", quote(s))
			}
			continue
		}
		unit, ok := units[m[2]]
		switch {
		case m[2] == "":
			return 0, fmt.Errorf("%s has no unit; write %s minutes or %s seconds", m[1], m[1], m[1])
		case !ok:
			return 0, fmt.Errorf("unknown unit %s%s; use seconds, minutes, hours, days or weeks", quote(m[2]), didYouMean(m[2], unitWords))
		}
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, fmt.Errorf("%s is no number: %w", quote(m[1]), err)
		}
		if n*float64(unit) > float64(maxTimeout) || total+time.Duration(n*float64(unit)) > maxTimeout {
			return 0, fmt.Errorf("%s is longer than 30 days, the most that is allowed", quote(s))
		}
		total += time.Duration(n * float64(unit)).Round(time.Millisecond)
		parts++
	}
	if total <= 0 {
		return 0, fmt.Errorf("%s is no time at all; write it as 1h 30m or 90 minutes", quote(s))
	}
	return total, nil
}
