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

// silentLimit is how long a watch may be silent. A replica of the circuits service sends each second.
const silentLimit = 5 * time.Second

// followCircuits keeps a watch open while pages are open.
func (c *Console) followCircuits(ctx context.Context) {
	for c.hub.interest(ctx) {
		err := c.watchCircuits(ctx)
		if ctx.Err() == nil && err != nil {
			c.report(partCircuits, err)
			c.seen.mu.Lock()
			c.seen.circuits = nil
			c.seen.mu.Unlock()
		}
		pace.Sleep(ctx, period)
	}
}

// watchCircuits returns nil when no page is open any more.
func (c *Console) watchCircuits(ctx context.Context) error {
	ctx, cancel := context.WithCancel(unsampled(ctx))
	defer cancel()
	silent := time.AfterFunc(silentLimit, cancel)
	defer silent.Stop()
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
			return errs.Errorf(errs.Unavailable, "the circuits service has sent nothing for %v", silentLimit)
		case err != nil:
			return err
		}
		silent.Reset(silentLimit)
		c.report(partCircuits, nil)
		c.seen.mu.Lock()
		c.seen.circuits = board
		c.seen.mu.Unlock()
		// The links are in the topic traffic.
		c.hub.publish(topicCircuits, protoJSON(&circuitsv1.WatchResponse{Services: board.Services}))
		if !c.hub.busy() {
			return nil
		}
	}
}
