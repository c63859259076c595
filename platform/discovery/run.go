package discovery

import (
	"context"
	"sync"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
)

// Run follows the registry until ctx ends, and then returns nil. It tries the seeds in turn and never stops trying,
// with growing jittered waits. Call it once.
func (c *Client) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { c.cleanUp(ctx) })
	defer wg.Wait()
	for try, failed := 0, 0; ctx.Err() == nil; try++ {
		seed := c.seeds.at(try)
		good, err := c.follow(ctx, seed)
		if ctx.Err() != nil {
			break
		}
		if good {
			failed = 0
		}
		failed++
		c.lost(seed, failed, err)
		pace.Sleep(ctx, c.seeds.wait(failed))
	}
	return nil
}

// follow applies what one registry sends until the stream ends, and reports whether it sent anything.
func (c *Client) follow(ctx context.Context, seed string) (good bool, err error) {
	conn, release, err := c.seeds.acquire(seed)
	if err != nil {
		return false, err
	}
	defer release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(watchTimeout, func() {
		cancel(errs.Errorf(errs.Timeout, "no message for %v", watchTimeout))
	})
	defer quiet.Stop()
	stream, err := discoveryv1.NewDiscoveryClient(conn).Watch(ctx)
	if err != nil {
		return false, streamError(ctx, err)
	}
	err = stream.Send(&discoveryv1.WatchRequest{Services: c.opts.Services, Watcher: c.opts.Name})
	for err == nil {
		var m *discoveryv1.WatchResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		quiet.Reset(watchTimeout)
		if !good && !m.GetSnapshot() {
			return false, errs.Errorf(errs.Internal, "the first message is not a snapshot")
		}
		c.apply(m, seed, !good)
		good = true
		err = stream.Send(&discoveryv1.WatchRequest{AppliedVersion: m.GetVersion()})
	}
	return good, streamError(ctx, err)
}

// streamError returns why a stream has ended: the cause of ctx, if this process has ended it, else err.
func streamError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return errs.FromRPC(err)
}

// apply applies a message of the registry. It returns after all watchers of what changed have returned.
func (c *Client) apply(m *discoveryv1.WatchResponse, seed string, first bool) {
	list := make([]Instance, len(m.GetInstances()))
	for i, p := range m.GetInstances() {
		list[i] = fromProto(p)
	}
	removed := make([]key, len(m.GetRemoved()))
	for i, r := range m.GetRemoved() {
		removed[i] = key{r.GetService(), r.GetId()}
	}
	now := time.Now()
	c.mu.Lock()
	var touched map[string]bool
	if m.GetSnapshot() {
		c.stats.Snapshots++
		touched = c.guard.snapshot(list, m.GetWarmingUp(), now)
	} else {
		c.stats.Deltas++
		touched = c.guard.delta(list, removed, m.GetWarmingUp(), now)
	}
	if first {
		c.stats.Streams++
		c.stats.Seed, c.stats.Since = seed, now
	}
	c.stats.Version = m.GetVersion()
	c.state = state{settled: true}
	suspects, _ := c.guard.suspects()
	c.mu.Unlock()
	if first {
		c.log.Info("following the registry",
			"seed", seed, "instances", len(list), "suspects", suspects, "warming_up", m.GetWarmingUp())
	}
	c.publish(touched)
	if suspects > 0 {
		c.cleanUpSoon()
	}
}

// lost records that a registry does not answer, or has stopped to. The known instances stay. failed counts the
// consecutive failures.
func (c *Client) lost(seed string, failed int, err error) {
	allFailed := failed == len(c.seeds.order)
	c.mu.Lock()
	followed := c.stats.Seed != ""
	c.guard.live = false
	if c.stats.Seed = ""; followed {
		c.stats.Since = time.Now()
	}
	c.state.current = errs.Errorf(errs.Unavailable, "registry %s: %w", seed, err)
	if c.state.synced != nil {
		c.state.synced = errs.Errorf(errs.Unavailable, "no registry has answered yet: %s: %w", seed, err)
	}
	c.state.settled = c.state.settled || allFailed
	c.mu.Unlock()
	switch {
	case followed:
		c.log.Warn("registry lost, keeping the known instances", "seed", seed, "error", err)
	case allFailed:
		c.log.Warn("no registry answers, retrying until one does", "seed", seed, "error", err)
	}
	c.publish(nil)
}

// saveEvery is the least time between two writes of the file.
const saveEvery = time.Second

// cleanUp drops suspects when their time is over and saves what changed, until ctx ends; then it saves once more.
func (c *Client) cleanUp(ctx context.Context) {
	timer := time.NewTimer(saveEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			c.save()
			return
		case <-c.wake:
		case <-timer.C:
		}
		c.expire()
		c.save()
		timer.Reset(c.untilExpiry())
		if !pace.Sleep(ctx, saveEvery) {
			c.save()
			return
		}
	}
}

// untilExpiry returns the time until the next suspect is dropped.
func (c *Client) untilExpiry() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, next := c.guard.suspects()
	if next.IsZero() {
		return time.Hour
	}
	return max(time.Until(next), 0)
}

func (c *Client) expire() {
	c.mu.Lock()
	before := c.guard.dropped
	touched := c.guard.expire(time.Now())
	n := c.guard.dropped - before
	c.mu.Unlock()
	if n > 0 {
		c.log.Warn("dropping suspects, the registry has not sent them again", "instances", n)
	}
	c.publish(touched)
}
