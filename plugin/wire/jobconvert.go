package wire

import (
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
)

// maxPiece is how many bytes of a job's output one message has.
const maxPiece = 1 << 20

func jobToPB(j *plugin.Job) (*wirepb.Job, error) {
	out := &wirepb.Job{
		Attempt: string(j.Attempt), Name: clean(j.Name), View: j.View, Path: j.Path,
		Before: toBytes(j.Before), Script: toBytes(j.Script), After: toBytes(j.After),
		Env:       make(map[string][]byte, len(j.Env)),
		TimeoutNs: int64(j.Timeout), AfterTimeoutNs: int64(j.AfterTimeout), GraceNs: int64(j.Grace), Have: j.Have,
	}
	for k, v := range j.Env {
		if k == clean(k) { // no shell has a variable of another name
			out.Env[k] = []byte(v)
		}
	}
	if s := j.Source; s != nil {
		out.Source = &wirepb.Source{Url: s.URL, Ref: s.Ref, Commit: s.Commit, Header: s.Header}
	}
	if n := proto.Size(out); n > MaxPayload {
		return nil, invalid("a job of %d bytes, more than %d", n, MaxPayload)
	}
	return out, nil
}

func jobFromPB(j *wirepb.Job) (plugin.Job, error) {
	if j == nil {
		return plugin.Job{}, invalid("a run begins with a job")
	}
	id, err := attempt(j.GetAttempt())
	if err != nil {
		return plugin.Job{}, err
	}
	if j.GetHave() < 0 {
		return plugin.Job{}, invalid("%d bytes of output", j.GetHave())
	}
	out := plugin.Job{
		Attempt: id, Name: j.GetName(), View: j.GetView(), Path: j.GetPath(),
		Before: toStrings(j.GetBefore()), Script: toStrings(j.GetScript()), After: toStrings(j.GetAfter()),
		Env:     make(map[string]string, len(j.GetEnv())),
		Timeout: time.Duration(j.GetTimeoutNs()), AfterTimeout: time.Duration(j.GetAfterTimeoutNs()),
		Grace: time.Duration(j.GetGraceNs()), Have: j.GetHave(),
	}
	for k, v := range j.GetEnv() {
		out.Env[k] = string(v)
	}
	if s := j.GetSource(); s != nil {
		out.Source = &plugin.Source{URL: s.GetUrl(), Ref: s.GetRef(), Commit: s.GetCommit(), Header: s.GetHeader()}
	}
	return out, nil
}

func resultToPB(r plugin.Result) *wirepb.RunResult {
	code := max(math.MinInt32, min(math.MaxInt32, r.ExitCode))
	return &wirepb.RunResult{Status: string(r.Status), ExitCode: int32(code), Reason: clean(r.Reason), Commit: clean(r.Commit)}
}

func resultFromPB(r *wirepb.RunResult) (plugin.Result, error) {
	out := plugin.Result{
		Status: plugin.Status(r.GetStatus()), ExitCode: int(r.GetExitCode()), Reason: r.GetReason(), Commit: r.GetCommit(),
	}
	switch out.Status {
	case plugin.StatusSuccess, plugin.StatusFailed, plugin.StatusTimedOut, plugin.StatusCanceled, plugin.StatusSystemFailure:
		return out, nil
	}
	return plugin.Result{}, invalid("result %.40q", r.GetStatus())
}

func toBytes(in []string) [][]byte {
	var out [][]byte
	for _, s := range in {
		out = append(out, []byte(s))
	}
	return out
}

func toStrings(in [][]byte) []string {
	var out []string
	for _, b := range in {
		out = append(out, string(b))
	}
	return out
}
