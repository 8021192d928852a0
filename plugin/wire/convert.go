package wire

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
	"github.com/roost-ci/roost/snapshot"
)

// attempt checks an id that another process sent.
func attempt(s string) (snapshot.ID, error) {
	id, err := snapshot.ParseID(s)
	if err != nil {
		return "", invalid("attempt: %w", err)
	}
	return id, nil
}

func slotToPB(n int) (int32, error) {
	if n < math.MinInt32 || n > math.MaxInt32 {
		return 0, invalid("slot %d", n)
	}
	return int32(n), nil
}

func settingsToPB(s plugin.Settings, agent uint32) (*wirepb.ServeRequest, error) {
	req := &wirepb.ServeRequest{Host: clean(s.Host), Dir: s.Dir, Config: s.Config, Agent: agent}
	for _, n := range s.Slots {
		slot, err := slotToPB(n)
		if err != nil {
			return nil, err
		}
		req.Slots = append(req.Slots, slot)
	}
	return req, nil
}

func settingsFromPB(r *wirepb.ServeRequest) plugin.Settings {
	s := plugin.Settings{Host: r.GetHost(), Dir: r.GetDir(), Config: r.GetConfig()}
	for _, n := range r.GetSlots() {
		s.Slots = append(s.Slots, int(n))
	}
	return s
}

func offerToPB(o plugin.Offer) (*wirepb.Offer, error) {
	slot, err := slotToPB(o.Slot)
	if err != nil {
		return nil, err
	}
	if n := len(o.Runner) + len(o.Job); n > MaxPayload {
		return nil, invalid("an offer of %d bytes, more than %d", n, MaxPayload)
	}
	return &wirepb.Offer{Slot: slot, Runner: o.Runner, Job: o.Job}, nil
}

func offerFromPB(o *wirepb.Offer) plugin.Offer {
	return plugin.Offer{Slot: int(o.GetSlot()), Runner: o.GetRunner(), Job: o.GetJob()}
}

func grantToPB(g *plugin.Grant) (*wirepb.Grant, error) {
	slot, err := slotToPB(g.Slot)
	if err != nil {
		return nil, err
	}
	if len(g.Payload) > MaxPayload {
		return nil, invalid("a payload of %d bytes, more than %d", len(g.Payload), MaxPayload)
	}
	if len(g.Log) > maxMessage-MaxPayload-1<<20 {
		return nil, invalid("a log of %d bytes", len(g.Log))
	}
	return &wirepb.Grant{
		Attempt: string(g.Attempt), Slot: slot, Payload: g.Payload, AgeNs: int64(g.Age), Log: g.Log,
	}, nil
}

func grantFromPB(g *wirepb.Grant) (*plugin.Grant, error) {
	id, err := attempt(g.GetAttempt())
	if err != nil {
		return nil, err
	}
	return &plugin.Grant{
		Attempt: id, Slot: int(g.GetSlot()), Payload: g.GetPayload(),
		Age: time.Duration(g.GetAgeNs()), Log: g.GetLog(),
	}, nil
}

func workspaceToPB(w *plugin.Workspace) *wirepb.Workspace {
	out := &wirepb.Workspace{
		State: w.State, View: w.View, Name: w.Name, Contained: cleanAll(w.Contained), Lines: cleanAll(w.Lines),
		Code: clean(w.Code), Reason: clean(w.Reason),
	}
	if w.Env != nil {
		out.Env = make(map[string]string, len(w.Env))
	}
	for k, v := range w.Env {
		out.Env[strings.ToValidUTF8(k, "")] = strings.ToValidUTF8(v, "")
	}
	return out
}

func workspaceFromPB(w *wirepb.Workspace) (*plugin.Workspace, error) {
	switch w.GetState() {
	case plugin.StateFull, plugin.StateFresh, plugin.StateOff:
	default: // an unknown state is none that a job may start in
		return nil, fmt.Errorf("workspace: unknown state %.40q", w.GetState())
	}
	if w.GetName() != "" {
		if _, err := snapshot.ParseID(w.GetName()); err != nil {
			return nil, fmt.Errorf("workspace: name: %w", err)
		}
	}
	return &plugin.Workspace{
		State: w.GetState(), View: w.GetView(), Name: w.GetName(), Contained: w.GetContained(), Lines: w.GetLines(),
		Code: w.GetCode(), Reason: w.GetReason(), Env: w.GetEnv(),
	}, nil
}

func discardToPB(d plugin.DiscardRequest) *wirepb.DiscardRequest {
	code := max(math.MinInt32, min(math.MaxInt32, d.ExitCode))
	return &wirepb.DiscardRequest{
		Attempt: string(d.Attempt), Outcome: string(d.Outcome), ExitCode: int32(code),
		Reason: clean(d.Reason), RunNs: int64(d.Run),
	}
}

func discardFromPB(d *wirepb.DiscardRequest) (plugin.DiscardRequest, error) {
	id, err := attempt(d.GetAttempt())
	if err != nil {
		return plugin.DiscardRequest{}, err
	}
	outcome := plugin.Outcome(d.GetOutcome())
	switch outcome {
	case plugin.OutcomeFailed, plugin.OutcomeCanceled, plugin.OutcomeSystem, plugin.OutcomeUndelivered:
	default:
		return plugin.DiscardRequest{}, invalid("outcome %.40q", d.GetOutcome())
	}
	return plugin.DiscardRequest{
		Attempt: id, Outcome: outcome, ExitCode: int(d.GetExitCode()), Reason: d.GetReason(),
		Run: time.Duration(d.GetRunNs()),
	}, nil
}

func cleanAll(in []string) []string {
	var out []string
	for _, s := range in {
		out = append(out, clean(s))
	}
	return out
}
