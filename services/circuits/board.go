package circuits

import (
	"context"
	"maps"
	"sync"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
)

const (
	// expiry is how long a process is shown without a new report, and the view of another replica without a new one.
	expiry = 5 * time.Second
	// period is how often watchers and turbine streams get the state.
	period = time.Second
)

// process identifies who reports.
type process struct{ service, instance string }

// report is the latest report of a process.
type report struct {
	at    time.Time
	state *circuitsv1.ServiceCircuits // of this one process
	// stream is a pointer that only the stream has that the report came by.
	stream *byte
}

// view is the state that another replica has from its own processes.
type view struct {
	at       time.Time
	services []*circuitsv1.ServiceCircuits
}

// Run watches the other replicas and removes processes that stopped reporting, until ctx ends. It returns ctx's error.
func (b *Board) Run(ctx context.Context) error {
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() {
		discovery.Peers{
			Directory: b.opts.Discovery, Service: "circuits", Self: b.opts.Instance, Endpoint: "grpc",
		}.Follow(ctx, b.followPeer)
	})
	tick := time.NewTicker(expiry / 5)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.expire()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *Board) expire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, r := range b.processes {
		if time.Since(r.at) > expiry {
			delete(b.processes, p)
			b.log.Info("a process stopped reporting", "caller", p.service, "caller_instance", p.instance, "last", r.at)
		}
	}
	maps.DeleteFunc(b.peers, func(_ string, v *view) bool { return time.Since(v.at) > expiry })
}

// put stores a report. It refuses new processes beyond the limit.
func (b *Board) put(p process, r *report) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.processes[p] == nil && len(b.processes) >= b.opts.MaxProcesses {
		return errs.Errorf(errs.Exhausted, "taking the report of %s: %d processes report here, which is the limit; "+
			"raise -max-processes or start another replica", p.instance, len(b.processes))
	}
	b.processes[p] = r
	return nil
}

// drop removes a process whose stream ended, unless it has opened another stream since.
func (b *Board) drop(p process, stream *byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.processes[p]; r != nil && r.stream == stream {
		delete(b.processes, p)
	}
}

// parts returns the state of one calling service, or of all for "": one part for each process that reports here, and
// unless own is set the parts that the other replicas have. The messages are shared: do not change them.
func (b *Board) parts(service string, own bool) []*circuitsv1.ServiceCircuits {
	b.mu.Lock()
	defer b.mu.Unlock()
	var parts []*circuitsv1.ServiceCircuits
	for p, r := range b.processes {
		if (service == "" || p.service == service) && time.Since(r.at) <= expiry {
			parts = append(parts, r.state)
		}
	}
	for _, v := range b.peers {
		if own || time.Since(v.at) > expiry {
			continue
		}
		for _, s := range v.services {
			if service == "" || s.Service == service {
				parts = append(parts, s)
			}
		}
	}
	return parts
}

// openStream returns a context that ends when the client leaves or the replica stops. Only counted streams have a
// limit. The caller calls done when the stream ends.
func (b *Board) openStream(ctx context.Context, counted bool) (_ context.Context, done func(), err error) {
	if b.closing.Err() != nil {
		return nil, nil, errs.Errorf(errs.Unavailable,
			"opening a stream: this replica is stopping; ask another one").RetryIn(period)
	}
	n := 0
	if counted {
		n = 1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.streams+n > b.opts.MaxStreams {
		return nil, nil, errs.Errorf(errs.Unavailable,
			"opening a stream: %d are open, which is the limit; raise -max-streams", b.streams)
	}
	b.streams += n
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(b.closing, cancel)
	return ctx, func() {
		stop()
		cancel()
		b.mu.Lock()
		b.streams -= n
		b.mu.Unlock()
	}, nil
}
