package blob

import (
	"strconv"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// etag is the digest as a strong validator: equal tags, equal bytes.
func etag(d snapshot.Digest) string { return `"` + d.String() + `"` }

// matches reports whether an If-None-Match header names d.
func matches(header string, d snapshot.Digest) bool {
	if strings.TrimSpace(header) == "*" {
		return true
	}
	for t := range strings.SplitSeq(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(t), "W/") == etag(d) {
			return true
		}
	}
	return false
}

// rangeApplies reports whether an If-Range header, if there is one, allows a range
// of d. Dates never match: blobs have none.
func rangeApplies(header string, d snapshot.Digest) bool {
	return header == "" || header == etag(d)
}

// parseRange reads a Range header with one range of a blob of size bytes. ok is
// false where the header is to be ignored, as RFC 9110 has it: it is malformed, or
// has several ranges. off is negative where the range lies outside.
func parseRange(header string, size int64) (off, n int64, ok bool) {
	spec, found := strings.CutPrefix(header, "bytes=")
	if !found {
		return 0, 0, false
	}
	first, last, found := strings.Cut(strings.TrimSpace(spec), "-")
	if !found {
		return 0, 0, false
	}
	if first == "" { // the last n bytes
		n, ok = parsePos(last)
		n = min(n, size)
		if ok && n == 0 {
			return -1, 0, true
		}
		return size - n, n, ok
	}
	if off, ok = parsePos(first); !ok {
		return 0, 0, false
	}
	end := size - 1
	if last != "" {
		e, ok := parsePos(last)
		if !ok || e < off {
			return 0, 0, false
		}
		end = min(end, e)
	}
	if off >= size {
		return -1, 0, true
	}
	return off, end - off + 1, true
}

// parsePos reads digits only; strconv alone would take a sign.
func parsePos(s string) (int64, bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil
}

// contentRange is a parsed Content-Range header of an answer with status 206.
type contentRange struct{ first, last, size int64 } // size is -1 if unknown

func parseContentRange(header string) (contentRange, bool) {
	spec, found := strings.CutPrefix(header, "bytes ")
	if !found {
		return contentRange{}, false
	}
	span, total, found := strings.Cut(spec, "/")
	a, b, found2 := strings.Cut(span, "-")
	if !found || !found2 {
		return contentRange{}, false
	}
	c := contentRange{size: -1}
	var ok1, ok2, ok3 bool
	c.first, ok1 = parsePos(a)
	c.last, ok2 = parsePos(b)
	if ok3 = total == "*"; !ok3 {
		c.size, ok3 = parsePos(total)
	}
	sane := c.last >= c.first && (c.size < 0 || c.last < c.size)
	return c, ok1 && ok2 && ok3 && sane
}
