package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
	"github.com/roost-ci/roost/snapshot"
)

// withdrawWait bounds how long a claim that was withdrawn waits for the agent to say
// whether there was a job after all.
const withdrawWait = 30 * time.Second

// agentClient is a plugin.Agent in another process. It lives in the plugin's.
type agentClient struct{ pb wirepb.AgentClient }

func (c *agentClient) Claim(ctx context.Context, o plugin.Offer) (*plugin.Grant, error) {
	offer, err := offerToPB(o)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, nil
	}
	// The stream outlives ctx: whether a job was on its way is only known by its end.
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := c.pb.Claim(whole)
	if err == nil {
		err = stream.Send(&wirepb.ClaimRequest{Step: &wirepb.ClaimRequest_Offer{Offer: offer}})
	}
	if err != nil {
		return nil, decode(err)
	}
	withdrawn := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(withdrawn)
		_ = stream.Send(&wirepb.ClaimRequest{Step: &wirepb.ClaimRequest_Withdraw{Withdraw: &wirepb.Withdraw{}}})
		time.AfterFunc(withdrawWait, cancel)
	})
	answer, err := stream.Recv()
	if !stop() {
		<-withdrawn // one sender at a time
	}
	if err != nil {
		if ctx.Err() != nil && whole.Err() != nil {
			return nil, nil // the agent gives it to somebody else
		}
		return nil, decode(err)
	}
	if answer.GetGrant() == nil {
		if ctx.Err() == nil {
			return nil, fmt.Errorf("the agent ended the claim without a job: %w", plugin.ErrUnavailable)
		}
		return nil, nil
	}
	g, err := grantFromPB(answer.GetGrant())
	if err != nil {
		return nil, err
	}
	return take(stream.Send, stream.CloseSend, stream.Recv, g)
}

// take says that a grant arrived and waits until the agent knows.
func take(send func(*wirepb.ClaimRequest) error, done func() error, recv func() (*wirepb.ClaimResponse, error), g *plugin.Grant) (*plugin.Grant, error) {
	err := send(&wirepb.ClaimRequest{Step: &wirepb.ClaimRequest_Taken{Taken: &wirepb.Taken{}}})
	if err == nil {
		err = done()
	}
	if _, end := recv(); !errors.Is(end, io.EOF) { // it says more than the error of sending
		err = end
	}
	if err != nil {
		return nil, decode(err)
	}
	return g, nil
}

func (c *agentClient) Attach(ctx context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.pb.Attach(ctx, &wirepb.AttachRequest{Attempt: string(id)})
	if err != nil {
		return nil, decode(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the agent's answer ended without a workspace")
		}
		if err != nil {
			return nil, decode(err)
		}
		if w := m.GetWorkspace(); w != nil {
			return workspaceFromPB(w)
		}
		if progress != nil {
			progress(m.GetProgress())
		}
	}
}

func (c *agentClient) Seal(ctx context.Context, s plugin.SealRequest) (*plugin.Sealed, error) {
	out, err := c.pb.Seal(ctx, &wirepb.SealRequest{
		Attempt: string(s.Attempt), RunNs: int64(s.Run), WithinNs: int64(s.Within),
	})
	if err != nil {
		return nil, decode(err)
	}
	res := &plugin.Sealed{Failed: out.GetFailed(), Reason: out.GetReason(), Lines: out.GetLines()}
	if out.GetOutput() != "" {
		if res.Output, err = attempt(out.GetOutput()); err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
	}
	return res, nil
}

func (c *agentClient) Discard(ctx context.Context, d plugin.DiscardRequest) error {
	_, err := c.pb.Discard(ctx, discardToPB(d))
	return decode(err)
}

func (c *agentClient) Held(ctx context.Context) ([]plugin.Held, error) {
	out, err := c.pb.Held(ctx, &wirepb.HeldRequest{})
	if err != nil {
		return nil, decode(err)
	}
	var held []plugin.Held
	for _, h := range out.GetHeld() {
		id, err := attempt(h.GetAttempt())
		if err != nil {
			return nil, err
		}
		held = append(held, plugin.Held{Attempt: id, Slot: int(h.GetSlot()), Attached: h.GetAttached()})
	}
	return held, nil
}
