package main

import (
	"fmt"
	"io"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/durable"
)

// runReport is what --report writes. Scripts rely on it: fields are
// added, never changed.
type runReport struct {
	Pipeline string      `json:"pipeline"`
	Number   int64       `json:"number"`
	Project  string      `json:"project"`
	Status   api.Status  `json:"status"`
	WallMS   int64       `json:"wall_ms"`
	Jobs     []jobReport `json:"jobs"`
	Saved    saving      `json:"saved"`
}

// jobReport is one job. StartMS counts from the pipeline's creation.
type jobReport struct {
	Name     string     `json:"name"`
	Attempt  int        `json:"attempt"`
	Host     string     `json:"host"`
	Status   api.Status `json:"status"`
	Code     api.Code   `json:"code,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	ExitCode int        `json:"exit_code"`
	// AllowedToFail: if it failed, the pipeline is as green as without it.
	AllowedToFail bool            `json:"allow_failure,omitempty"`
	StartMS       int64           `json:"start_ms"`
	RunMS         int64           `json:"run_ms"`
	Workspace     workspaceReport `json:"workspace"`
}

// workspaceReport is what a job found and moved. Bytes are counted where they
// move: at sockets and at the store's write calls.
type workspaceReport struct {
	State        string   `json:"state"`
	Origin       string   `json:"origin"`
	Source       string   `json:"source"`
	Code         api.Code `json:"code"`
	Reason       string   `json:"reason"`
	Snapshot     string   `json:"snapshot"`
	Inputs       []string `json:"inputs"`
	Driver       string   `json:"driver"`
	BytesNeeded  int64    `json:"bytes_needed"`
	BytesMoved   int64    `json:"bytes_moved"`
	BytesWritten int64    `json:"bytes_written"`
	AttachMS     float64  `json:"attach_ms"`
	SealMS       float64  `json:"seal_ms"`
}

// saving compares the run with passing the same trees as zstd archives.
type saving struct {
	// BytesNotMoved is what jobs needed less what was moved for them: counted.
	BytesNotMoved int64 `json:"bytes_not_moved"`
	// EstimatedMS is the time to encode, once for each job that hands its tree on,
	// that tree as a zstd archive, at EncodeRate. An estimate: decoding, uploading
	// and downloading come on top and are left out.
	EstimatedMS int64 `json:"estimated_ms"`
	// EncodeRate is plain bytes per second, measured while this run's own layers
	// were encoded; 0 when they were too small for that, and then there is no estimate.
	EncodeRate float64 `json:"encode_rate"`
}

func newReport(p *api.Pipeline) *runReport {
	r := &runReport{Pipeline: p.ID, Number: p.Number, Project: p.Project, Status: p.Status, Jobs: []jobReport{}}
	if p.EndedMS > 0 {
		r.WallMS = p.EndedMS - p.CreatedMS
	}
	for _, j := range p.Jobs {
		w := j.Workspace
		jr := jobReport{
			Name: j.Name, Attempt: j.Attempt, Host: j.Host, Status: j.Status, Code: j.Code, Reason: j.Reason,
			ExitCode: j.ExitCode, AllowedToFail: j.AllowFailure, RunMS: j.RunMS,
			Workspace: workspaceReport{
				State: w.State, Origin: w.Origin, Source: w.Source, Code: w.Code, Reason: w.Reason,
				Snapshot: string(w.Output), Inputs: w.Inputs, Driver: w.Driver, BytesNeeded: w.BytesNeeded,
				BytesMoved: w.BytesMoved, BytesWritten: w.BytesWritten, AttachMS: w.AttachMS, SealMS: w.SealMS,
			},
		}
		if j.StartMS > 0 {
			jr.StartMS = j.StartMS - p.CreatedMS
		}
		if jr.Workspace.Inputs == nil {
			jr.Workspace.Inputs = []string{}
		}
		r.Jobs = append(r.Jobs, jr)
	}
	r.Saved = savings(p)
	return r
}

// minSample is the least that must have been encoded for its rate to mean anything.
const minSample = 1 << 20

// savings is the comparison with archives.
func savings(p *api.Pipeline) saving {
	var s saving
	var plain, ms float64
	handsOn := map[string]int64{} // output -> bytes of its tree, for outputs that a job started from
	for _, j := range p.Jobs {
		w := j.Workspace
		plain += float64(j.Layer.PlainBytes)
		ms += j.Layer.EncodeMS
		if w.State != api.StateFull || w.Origin == api.OriginNone || w.Origin == "" {
			continue
		}
		s.BytesNotMoved += max(0, w.BytesNeeded-w.BytesMoved)
		for _, in := range w.Inputs {
			handsOn[in] = max(handsOn[in], w.BytesNeeded/int64(len(w.Inputs)))
		}
	}
	for _, j := range p.Jobs {
		if _, ok := handsOn[string(j.Workspace.Output)]; ok && j.Layer.TreeBytes > 0 {
			handsOn[string(j.Workspace.Output)] = j.Layer.TreeBytes
		}
	}
	if plain >= minSample && ms > 0 {
		s.EncodeRate = plain / ms * 1000
		for _, n := range handsOn {
			s.EstimatedMS += int64(float64(n) / s.EncodeRate * 1000)
		}
	}
	return s
}

func (r *runReport) write(w io.Writer) error {
	return printIndented(w, r)
}

func (r *runReport) save(path string) error {
	if err := durable.WriteFile(path, 0o644, r.write); err != nil {
		return &exitError{code: exitUsage, err: fmt.Errorf("report: %w", err)}
	}
	return nil
}
