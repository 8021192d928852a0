//go:build bench && linux

package bench

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

var (
	benchLine = regexp.MustCompile(`^Benchmark(\S+?)-\d+\s+\d+\s+(.*)$`)
	benchUnit = regexp.MustCompile(`([0-9.eE+-]+)\s+(\S+)`)
)

// gitlabs runs the benchmarks of what stands between a runner and GitLab, beside a direct connection in
// the same process: plain, and with TLS where GitLab has it, over a paced link and as fast as the
// processors go. A sample's wall is the value of its unit, which is the way.
func (b *bench) gitlabs() {
	times := "1s"
	if b.set.quick {
		times = "3x"
	}
	for range b.set.rounds {
		now := load()
		ctx, cancel := context.WithTimeout(b.t.Context(), limit)
		out, err := exec.CommandContext(ctx, "go", "test", "../../plugin/gitlab", "-run", "^$", "-bench", "Call|Artifacts|Held", "-benchtime", times).CombinedOutput()
		cancel()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out[max(0, len(out)-2000):])
			b.rec.failed(key{Group: "gitlab", Way: roostWay.name, Op: "go test"}, err)
			return
		}
		for line := range strings.Lines(string(out)) {
			m := benchLine.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil {
				continue
			}
			for _, v := range benchUnit.FindAllStringSubmatch(m[2], -1) {
				if n, err := strconv.ParseFloat(v[1], 64); err == nil {
					b.rec.add(key{Group: "gitlab", Way: v[2], Op: m[1]}, sample{Wall: n, Load: now})
				}
			}
		}
	}
}

// gitlabTable shows what the endpoint costs.
func (b *bench) gitlabTable(w *bytes.Buffer) {
	if !b.rec.any("gitlab") {
		return
	}
	of := func(op, unit string) float64 { return b.rec.medianWall(key{Group: "gitlab", Way: unit, Op: op}) }
	fmt.Fprint(w, "#### GitLab's endpoint beside a direct connection\n\nClient, endpoint and server share this machine's processors; medians. Asked: 0.9 of a direct connection.\n\n",
		"| artifacts | of direct | MB/s, direct | by CPU: of direct | CPU s per GiB, direct |\n|---|--:|--:|--:|--:|\n")
	for _, link := range []string{"1Gbit", "1Gbit-tls", "loopback", "loopback-tls"} {
		for _, dir := range []string{"up", "down"} {
			op := "Artifacts/" + dir + "/" + link
			if !b.rec.has(key{Group: "gitlab", Way: "of-direct", Op: op}) {
				continue
			}
			fmt.Fprintf(w, "| %s, %s | %.2f | %.0f, %.0f | %.2f | %.2f, %.2f |\n", dir, link, of(op, "of-direct"), of(op, "MB/s"), of(op, "direct-MB/s"),
				of(op, "of-direct-by-CPU"), of(op, "CPU-s/GiB"), of(op, "direct-CPU-s/GiB"))
		}
	}
	fmt.Fprintf(w, "\nA call takes %.2f ms longer at the median and %.2f at p99 (asked 2); 200 held requests take %.0f MB, their clients included (asked 100).\n\n",
		of("Call", "added-p50-ms"), of("Call", "added-p99-ms"), of("Held", "MB-with-the-clients"))
}
