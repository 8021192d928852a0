package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
	"github.com/roost-ci/roost/snapshot"
)

var _ plugin.Runner = (*pluginClient)(nil)

// Run implements plugin.Runner. A plugin that dies meanwhile is plugin.ErrUnavailable.
// The end of ctx asks it to stop the job; how long that takes is the plugin's matter.
func (c *pluginClient) Run(ctx context.Context, job plugin.Job, log io.Writer) (plugin.Result, error) {
	pb, err := jobToPB(&job)
	if err != nil {
		return plugin.Result{}, err
	}
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := c.runs.Run(whole)
	if err != nil {
		return plugin.Result{}, decode(err)
	}
	s := &runStream{BidiStreamingClient: stream}
	s.send(&wirepb.RunRequest{Step: &wirepb.RunRequest_Job{Job: pb}}) // what goes wrong, Recv says
	defer context.AfterFunc(ctx, func() {
		s.send(&wirepb.RunRequest{Step: &wirepb.RunRequest_Stop{Stop: &wirepb.Stop{}}})
	})()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return plugin.Result{}, errors.New("the plugin's answer ended without a result")
		}
		if err != nil {
			return plugin.Result{}, decode(err)
		}
		if r := m.GetResult(); r != nil {
			return resultFromPB(r)
		}
		log.Write(m.GetOutput()) //nolint:errcheck // a log that refuses bytes loses them; the job goes on
		s.send(&wirepb.RunRequest{Step: &wirepb.RunRequest_Got{Got: &wirepb.Got{}}})
	}
}

// runStream is a stream to which several may send.
type runStream struct {
	grpc.BidiStreamingClient[wirepb.RunRequest, wirepb.RunResponse]
	mu sync.Mutex
}

func (s *runStream) send(m *wirepb.RunRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.Send(m) // a stream that is broken says so by Recv
}

// Kill implements plugin.Runner.
func (c *pluginClient) Kill(ctx context.Context, id snapshot.ID) error {
	_, err := c.runs.Kill(ctx, &wirepb.KillRequest{Attempt: string(id)})
	if err != nil {
		return fmt.Errorf("end attempt %.40s: %w", id, decode(err))
	}
	return nil
}
