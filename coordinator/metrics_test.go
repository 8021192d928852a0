package coordinator

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

var figureRE = regexp.MustCompile(`^(roost_[a-z_]+(?:\{(?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)*\})?) (\d+)$`)

// readFigures checks the format and gives each figure by name and labels.
func readFigures(t *testing.T, text string) map[string]int64 {
	t.Helper()
	got, kinds := map[string]int64{}, map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			name = f[2]
			require.NotContains(t, kinds, name, "a name comes once")
			require.NotEmpty(t, f[3])
		case strings.HasPrefix(line, "# TYPE "):
			require.Equal(t, name, f[2])
			kinds[name] = f[3]
			require.Equal(t, strings.HasSuffix(name, "_total"), f[3] == "counter", line)
		default:
			m := figureRE.FindStringSubmatch(line)
			require.NotNil(t, m, "%q", line)
			require.True(t, m[1] == name || strings.HasPrefix(m[1], name+"{"), "%q is not of %s", line, name)
			require.NotContains(t, got, m[1])
			n, err := strconv.ParseInt(m[2], 10, 64)
			require.NoError(t, err)
			got[m[1]] = n
		}
	}
	return got
}

func TestMetrics(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Version = "v1.2.3" })
	const odd = `a"b\`
	h := b.newHost(odd, 2)
	metrics := func() map[string]int64 {
		res, text := b.try("GET", "/metrics", userToken)
		require.Equal(t, http.StatusOK, res.StatusCode, text)
		require.Equal(t, "text/plain; version=0.0.4; charset=utf-8", res.Header.Get("Content-Type"))
		return readFigures(t, text)
	}
	host := `{host="a\"b\\"}`
	got := metrics()
	require.EqualValues(t, 1, got[`roost_info{version="v1.2.3"}`])
	require.EqualValues(t, 1, got["roost_host_ready"+host])
	require.EqualValues(t, 2, got["roost_host_slots"+host])
	require.EqualValues(t, b.clock.Now().Unix(), got["roost_host_seen_timestamp_seconds"+host])
	require.Contains(t, got, "roost_workspace_moved_bytes_total")

	h.beat(func(x *api.Heartbeat) {
		x.DiskFree, x.DiskTotal, x.Queue, x.Evicted, x.EvictedBytes = 5, 9, 7, 3, 1<<40
	})
	b.advance(4 * time.Second) // nobody expects it to ask for work any more
	b.submit("stages: [a, b]\none: {stage: a, script: x}\ntwo: {stage: b, script: x}\n")
	b.advance(4 * time.Second)
	got = metrics()
	require.EqualValues(t, 5, got["roost_host_disk_free_bytes"+host])
	require.EqualValues(t, 9, got["roost_host_disk_size_bytes"+host])
	require.EqualValues(t, 7, got["roost_host_upload_queue_bytes"+host])
	require.EqualValues(t, 3, got["roost_host_evicted_layers_total"+host])
	require.EqualValues(t, 1<<40, got["roost_host_evicted_bytes_total"+host])
	require.EqualValues(t, 1, got["roost_pipelines"])
	require.EqualValues(t, 1, got[`roost_jobs{status="queued"}`])
	require.EqualValues(t, 1, got[`roost_jobs{status="pending"}`])
	require.EqualValues(t, 4, got["roost_queue_oldest_seconds"])

	h.run("one")
	c := h.claim()
	h.begin(c)
	require.EqualValues(t, 1, metrics()["roost_host_jobs"+host])
	_, err := h.end(c, api.Finish{Status: api.StatusFailed, Code: api.FailScript, Workspace: api.Workspace{
		State: api.StateFull, Source: "from \"nowhere\"", BytesNeeded: 4 << 20, BytesMoved: 1 << 20,
	}})
	require.NoError(t, err)
	got = metrics()
	require.EqualValues(t, 0, got["roost_pipelines"])
	require.EqualValues(t, 0, got["roost_queue_oldest_seconds"])
	require.EqualValues(t, 1, got[`roost_jobs_ended_total{status="success"}`])
	require.EqualValues(t, 1, got[`roost_jobs_ended_total{status="failed"}`])
	require.EqualValues(t, 1, got[`roost_workspaces_total{state="FULL",source="other"}`], "%v", got)
	require.EqualValues(t, 4<<20, got["roost_workspace_needed_bytes_total"])
	require.EqualValues(t, 1<<20, got["roost_workspace_moved_bytes_total"])

	b.restart()
	got = metrics()
	require.EqualValues(t, 0, got[`roost_jobs_ended_total{status="success"}`], "since the start")
	require.EqualValues(t, 0, got["roost_host_seen_timestamp_seconds"+host])
}
