package console

import (
	"context"
	"errors"
	"io"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
)

// watchTimeout is how long a watch may send nothing. A replica of the circuits service sends once a second.
const watchTimeout = 5 * time.Second

// followCircuits watches the circuits service while pages are open.
func (c *Console) followCircuits(ctx context.Context) {
	for c.hub.waitUntilActive(ctx) {
		err := c.watchCircuits(ctx)
		if ctx.Err() == nil && err != nil {
			c.setPart(partCircuits, err)
			c.answers.mu.Lock()
			c.answers.circuits = nil
			c.answers.mu.Unlock()
		}
		pace.Sleep(ctx, pollPeriod)
	}
}

// watchCircuits publishes what one watch sends. It returns nil when no page is open any more.
func (c *Console) watchCircuits(ctx context.Context) error {
	ctx, cancel := context.WithCancel(withoutTrace(ctx))
	defer cancel()
	timeout := time.AfterFunc(watchTimeout, cancel)
	defer timeout.Stop()
	stream, err := c.circuits.Watch(ctx, &circuitsv1.WatchRequest{})
	if err != nil {
		return err
	}
	for {
		board, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errs.Errorf(errs.Unavailable, "the circuits service ended the watch")
		case err != nil && ctx.Err() != nil:
			return errs.Errorf(errs.Unavailable, "the circuits service has sent nothing for %v", watchTimeout)
		case err != nil:
			return err
		}
		timeout.Reset(watchTimeout)
		c.setPart(partCircuits, nil)
		c.answers.mu.Lock()
		c.answers.circuits = board
		c.answers.mu.Unlock()
		// The links of the response are published in the topic traffic.
		c.hub.publish(topicCircuits, protoJSON(&circuitsv1.WatchResponse{Services: board.Services}))
		if !c.hub.isActive() {
			return nil
		}
	}
}
