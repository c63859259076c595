package circuits

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
)

const (
	// expiry is how long a process counts without a new report, and a peer's view without a new one.
	expiry = 5 * time.Second
	// period is how often watchers get the state.
	period = time.Second
)

// process is who reports.
type process struct{ service, instance string }

// report is the last word of a process.
type report struct {
	at       time.Time
	circuits []*circuitsv1.Snapshot
	stream   *byte // identity of the stream it came by
}

// view is what a peer was told by the processes that report to it.
type view struct {
	at       time.Time
	services []*circuitsv1.ServiceCircuits
}

// Run watches the other replicas and forgets processes that fell silent, until ctx ends. It returns ctx's error.
func (b *Board) Run(ctx context.Context) error {
	stop := b.followPeers(ctx)
	defer stop()
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

// put takes a report in. It refuses processes beyond the limit.
func (b *Board) put(p process, r *report) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.processes[p] == nil && len(b.processes) >= b.opts.MaxProcesses {
		return errs.Errorf(errs.Exhausted, "taking the report of %s: %d processes report here, which is the limit; raise -max-processes or start another replica",
			p.instance, len(b.processes))
	}
	b.processes[p] = r
	return nil
}

// drop forgets a process whose stream ended, unless it reports by another stream by now.
func (b *Board) drop(p process, stream *byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.processes[p]; r != nil && r.stream == stream {
		delete(b.processes, p)
	}
}

// state returns the circuits of one calling service, or of all for "". Own is what was reported to this replica, without
// what its peers know.
func (b *Board) state(service string, own bool) *circuitsv1.WatchResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string]*sum{}
	of := func(name string) *sum {
		if all[name] == nil {
			all[name] = &sum{circuits: map[string]*circuitsv1.Snapshot{}}
		}
		return all[name]
	}
	for p, r := range b.processes {
		if (service == "" || p.service == service) && time.Since(r.at) <= expiry {
			of(p.service).add([]string{p.instance}, r.circuits)
		}
	}
	for _, v := range b.peers {
		for _, s := range v.services {
			if !own && (service == "" || s.Service == service) && time.Since(v.at) <= expiry {
				of(s.Service).add(s.Instances, s.Circuits)
			}
		}
	}
	resp := &circuitsv1.WatchResponse{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		resp.Services = append(resp.Services, all[name].result(name))
	}
	return resp
}

// total sums all services of a state into one list of circuits, as a Turbine cluster does, and counts the processes.
func total(state *circuitsv1.WatchResponse) (circuits []*circuitsv1.Snapshot, hosts int) {
	all := &sum{circuits: map[string]*circuitsv1.Snapshot{}}
	for _, s := range state.Services {
		all.add(nil, s.Circuits)
		hosts += len(s.Instances)
	}
	return all.result("").Circuits, hosts
}

// sum collects the circuits of one calling service.
type sum struct {
	instances []string
	circuits  map[string]*circuitsv1.Snapshot
}

func (s *sum) add(instances []string, circuits []*circuitsv1.Snapshot) {
	s.instances = append(s.instances, instances...)
	for _, c := range circuits {
		if into := s.circuits[c.Name]; into != nil {
			merge(into, c)
		} else {
			s.circuits[c.Name] = first(c)
		}
	}
}

func (s *sum) result(service string) *circuitsv1.ServiceCircuits {
	slices.Sort(s.instances)
	return &circuitsv1.ServiceCircuits{
		Service:   service,
		Instances: slices.Compact(s.instances),
		Circuits: slices.SortedFunc(maps.Values(s.circuits), func(a, b *circuitsv1.Snapshot) int {
			return cmp.Compare(a.Name, b.Name)
		}),
	}
}

// openStream returns a context that ends when the client goes or the replica stops. Counted streams have a limit; done
// gives the place back.
func (b *Board) openStream(ctx context.Context, counted bool) (_ context.Context, done func(), err error) {
	if b.closing.Err() != nil {
		return nil, nil, errs.Errorf(errs.Unavailable, "opening a stream: this replica is stopping; ask another one").RetryIn(period)
	}
	places := 0
	if counted {
		places = 1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.streams+places > b.opts.MaxStreams {
		return nil, nil, errs.Errorf(errs.Unavailable, "opening a stream: %d are open, which is the limit; raise -max-streams", b.streams)
	}
	b.streams += places
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(b.closing, cancel)
	return ctx, func() {
		stop()
		cancel()
		b.mu.Lock()
		b.streams -= places
		b.mu.Unlock()
	}, nil
}
