package gitlab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/roost-ci/roost/plugin"
)

// final is the runner's last word. It is held until the workspace is kept and GitLab has
// answered, or for as long as the runner listens; what comes then is told when it asks again.
func (s *service) final(w http.ResponseWriter, r *http.Request, j *job, body rawObject) {
	fin := readFinal(body)
	rec := j.record()
	fin.Run = s.now().Sub(rec.Handed)
	if !fin.Success && j.isCanceled() {
		fin.Outcome = plugin.OutcomeCanceled
	}
	f := j.end(fin)
	if f == nil {
		refuse(w, http.StatusServiceUnavailable, "the record of the job can't be written")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), ms(s.cfg.FinalMS))
	defer cancel()
	if a := f.wait(ctx); a != nil {
		a.write(w)
		return
	}
	w.Header().Set("Retry-After", "1")
	refuse(w, http.StatusServiceUnavailable, "GitLab has not answered yet")
}

// readFinal makes a job's end of the runner's update.
func readFinal(body rawObject) final {
	fin := final{Success: body.str("state") == "success", Reason: body.str("failure_reason")}
	if json.Unmarshal(body.get("exit_code"), &fin.Exit) != nil {
		fin.Exit = 0
	}
	fin.Size, fin.CRC, fin.Counted = counted(body)
	body.remove("token")
	fin.Own, fin.Body = true, body.bytes()
	if fin.Success {
		return fin
	}
	switch fin.Reason {
	case "runner_system_failure", "runner_interrupted", "image_pull_failure":
		fin.Outcome = plugin.OutcomeSystem
	default:
		fin.Outcome = plugin.OutcomeFailed
	}
	return fin
}

// isFinal: the job has ended for its runner.
func isFinal(body rawObject) bool {
	state := body.str("state")
	return state == "success" || state == "failed"
}

// count makes the checksums and the size of the runner's part those of the whole trace.
// Without them GitLab takes the trace as it is.
func (j *job) count(body *rawObject, prefix []byte, foreign int64, suffix []byte) {
	size, crc, ok := counted(*body)
	if !ok {
		return
	}
	if foreign > 0 {
		body.remove("checksum")
		body.remove("output")
		return
	}
	crc = crcJoin(crcOf(prefix), crc, size)
	crc = crcJoin(crc, crcOf(suffix), int64(len(suffix)))
	size += int64(len(prefix) + len(suffix))
	sum := fmt.Sprintf("crc32:%08x", crc)
	if body.get("checksum") != nil {
		body.set("checksum", sum)
	}
	out, err := parseObject(body.get("output"))
	if err != nil {
		return
	}
	out.set("checksum", sum)
	out.set("bytesize", size)
	body.set("output", out)
}

// counted reads the runner's own size and checksum of its part of the trace.
func counted(body rawObject) (size int64, crc uint32, ok bool) {
	var out struct {
		Checksum string
		Bytesize *int64
	}
	if body.into("output", &out) != nil || out.Bytesize == nil || *out.Bytesize < 0 {
		return 0, 0, false
	}
	hex, found := strings.CutPrefix(out.Checksum, "crc32:")
	n, err := strconv.ParseUint(hex, 16, 32)
	return *out.Bytesize, uint32(n), found && err == nil
}
