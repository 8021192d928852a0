package wire

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
)

// giveBackWait bounds how long the agent takes to give back a job that nobody took.
const giveBackWait = time.Minute

// agentServer serves a plugin.Agent to a plugin. It runs in the agent's process.
type agentServer struct {
	wirepb.UnimplementedAgentServer
	agent plugin.Agent
}

// Claim: see plugin.proto for who says what when. No job is lost on the way: one
// that the plugin has not said to have is given back here, one that it has is in Held.
func (s *agentServer) Claim(stream grpc.BidiStreamingServer[wirepb.ClaimRequest, wirepb.ClaimResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetOffer() == nil {
		return encode(invalid("a claim begins with an offer"))
	}
	ctx, withdraw := context.WithCancel(stream.Context())
	defer withdraw()
	taken := make(chan bool, 1)
	go func() { // ends with the stream, which ends when this handler returns
		defer withdraw()
		taken <- heardTaken(stream, withdraw)
	}()
	g, err := s.agent.Claim(ctx, offerFromPB(first.GetOffer()))
	switch {
	case err != nil:
		return encode(err)
	case g == nil:
		return stream.Send(&wirepb.ClaimResponse{})
	}
	pb, err := grantToPB(g)
	if err == nil {
		err = stream.Send(&wirepb.ClaimResponse{Grant: pb})
	}
	if err == nil && <-taken {
		return nil
	}
	if derr := s.giveBack(stream.Context(), g); derr != nil {
		return encode(derr)
	}
	if err == nil {
		err = plugin.ErrUnavailable
	}
	return encode(err)
}

// heardTaken reports whether the plugin says to have the grant before the stream ends.
func heardTaken(stream grpc.BidiStreamingServer[wirepb.ClaimRequest, wirepb.ClaimResponse], withdraw func()) bool {
	for {
		m, err := stream.Recv()
		switch {
		case err != nil:
			return false
		case m.GetTaken() != nil:
			return true
		case m.GetWithdraw() != nil:
			withdraw()
		}
	}
}

// giveBack gives back a job that nobody took.
func (s *agentServer) giveBack(ctx context.Context, g *plugin.Grant) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackWait)
	defer cancel()
	return s.agent.Discard(ctx, plugin.DiscardRequest{
		Attempt: g.Attempt, Outcome: plugin.OutcomeUndelivered, Reason: "the plugin did not take it",
	})
}

func (s *agentServer) Attach(req *wirepb.AttachRequest, stream grpc.ServerStreamingServer[wirepb.AttachResponse]) error {
	id, err := attempt(req.GetAttempt())
	if err != nil {
		return encode(err)
	}
	var mu sync.Mutex
	over := false
	progress := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		if !over { // a plugin that has gone is seen by ctx
			_ = stream.Send(&wirepb.AttachResponse{Step: &wirepb.AttachResponse_Progress{Progress: clean(line)}})
		}
	}
	w, err := s.agent.Attach(stream.Context(), id, progress)
	mu.Lock()
	defer mu.Unlock()
	over = true
	if err != nil {
		return encode(err)
	}
	return stream.Send(&wirepb.AttachResponse{Step: &wirepb.AttachResponse_Workspace{Workspace: workspaceToPB(w)}})
}

func (s *agentServer) Seal(ctx context.Context, req *wirepb.SealRequest) (*wirepb.SealResponse, error) {
	id, err := attempt(req.GetAttempt())
	if err != nil {
		return nil, encode(err)
	}
	out, err := s.agent.Seal(ctx, plugin.SealRequest{
		Attempt: id, Run: time.Duration(req.GetRunNs()), Within: time.Duration(req.GetWithinNs()),
	})
	if err != nil {
		return nil, encode(err)
	}
	return &wirepb.SealResponse{
		Output: string(out.Output), Failed: out.Failed, Reason: clean(out.Reason), Lines: cleanAll(out.Lines),
	}, nil
}

func (s *agentServer) Discard(ctx context.Context, req *wirepb.DiscardRequest) (*wirepb.DiscardResponse, error) {
	d, err := discardFromPB(req)
	if err != nil {
		return nil, encode(err)
	}
	if err := s.agent.Discard(ctx, d); err != nil {
		return nil, encode(err)
	}
	return &wirepb.DiscardResponse{}, nil
}

func (s *agentServer) Held(ctx context.Context, _ *wirepb.HeldRequest) (*wirepb.HeldResponse, error) {
	held, err := s.agent.Held(ctx)
	if err != nil {
		return nil, encode(err)
	}
	out := &wirepb.HeldResponse{}
	for _, h := range held {
		slot, err := slotToPB(h.Slot)
		if err != nil {
			return nil, encode(err)
		}
		out.Held = append(out.Held, &wirepb.Held{Attempt: string(h.Attempt), Slot: slot, Attached: h.Attached})
	}
	return out, nil
}
