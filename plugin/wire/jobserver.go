package wire

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
)

// runnerServer serves a plugin.Runner to the agent. It runs in the plugin's process.
type runnerServer struct {
	wirepb.UnimplementedRunnerServer
	runner plugin.Runner
}

// errCut says that the agent does not listen to a job's output any more. It calls
// again, another process or, if it is the agent that has gone, nobody.
var errCut = fmt.Errorf("the agent has hung up: %w", plugin.ErrUnavailable)

func (s *runnerServer) Run(stream grpc.BidiStreamingServer[wirepb.RunRequest, wirepb.RunResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	job, err := jobFromPB(first.GetJob())
	if err != nil {
		return encode(err)
	}
	// A stream that breaks stops no job.
	ctx, stop := context.WithCancel(context.WithoutCancel(stream.Context()))
	defer stop()
	out := &outputStream{stream: stream, got: make(chan struct{}, 1)}
	go func() { // ends with the stream, which ends when this handler returns
		for {
			m, err := stream.Recv()
			switch {
			case err != nil:
				return
			case m.GetStop() != nil:
				stop()
			case m.GetGot() != nil:
				select {
				case out.got <- struct{}{}:
				default: // nobody asked
				}
			}
		}
	}()
	res, err := s.runner.Run(ctx, job, out)
	if err != nil {
		return encode(err)
	}
	return stream.Send(&wirepb.RunResponse{Step: &wirepb.RunResponse_Result{Result: resultToPB(res)}})
}

func (s *runnerServer) Kill(ctx context.Context, req *wirepb.KillRequest) (*wirepb.KillResponse, error) {
	id, err := attempt(req.GetAttempt())
	if err != nil {
		return nil, encode(err)
	}
	if err := s.runner.Kill(ctx, id); err != nil {
		return nil, encode(err)
	}
	return &wirepb.KillResponse{}, nil
}

// outputStream is a job's log on its way to the agent.
type outputStream struct {
	stream grpc.BidiStreamingServer[wirepb.RunRequest, wirepb.RunResponse]
	got    chan struct{}
	mu     sync.Mutex // one Write at a time
}

// Write returns when the agent has it.
func (o *outputStream) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n := 0; n < len(p); {
		piece := p[n:min(len(p), n+maxPiece)]
		err := o.stream.Send(&wirepb.RunResponse{Step: &wirepb.RunResponse_Output{Output: piece}})
		if err != nil {
			return n, errors.Join(errCut, err)
		}
		select {
		case <-o.got:
			n += len(piece)
		case <-o.stream.Context().Done():
			return n, errCut
		}
	}
	return len(p), nil
}
