package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
	"google.golang.org/protobuf/types/known/durationpb"
)

// RegistrarOptions say how often an instance renews. The zero value is right for most.
type RegistrarOptions struct {
	// Heartbeat is how often the instance renews. Zero: [HeartbeatDefault].
	Heartbeat time.Duration
	// Lease is how long it may be silent before it is taken for dead. Zero: [LeaseDefault]. The registry refuses a
	// lease of less than two heartbeats.
	Lease time.Duration
	// Log receives what an operator wants to know. Nil: the client's.
	Log *slog.Logger
}

// Registrar keeps one instance registered. Each heartbeat carries the whole instance, so a registry that has lost
// everything learns it again from the next one. It is safe for use by several goroutines.
type Registrar struct {
	c    *Client
	opts RegistrarOptions
	log  *slog.Logger
	// poke asks the session to send now; gone is closed when the registry has forgotten the instance on our request.
	poke chan struct{}
	gone chan struct{}

	mu       sync.Mutex
	instance Instance
	draining bool // the status stays
	leaving  bool
	answered time.Time     // the last answer; zero: never
	lease    time.Duration // in force
	beat     time.Duration // in force
	reason   string        // why not registered
	failed   int           // tries in vain since the last answer
	alone    chan struct{} // closed when every seed was tried in vain while leaving
	told     chan struct{} // closed and replaced when the registry says that the status has propagated
	spread   Status        // the newest status that has propagated
}

// NewRegistrar returns a registrar of an instance, whose Status is Starting and whose Started is now unless they are set.
func NewRegistrar(c *Client, in Instance, opts RegistrarOptions) *Registrar {
	opts.Heartbeat = cmp.Or(opts.Heartbeat, HeartbeatDefault)
	opts.Lease = cmp.Or(opts.Lease, LeaseDefault)
	opts.Log = cmp.Or(opts.Log, c.log)
	in.Status = cmp.Or(in.Status, Starting)
	if in.Started.IsZero() {
		in.Started = time.Now()
	}
	in.Endpoints, in.Metadata = maps.Clone(in.Endpoints), maps.Clone(in.Metadata)
	return &Registrar{
		c: c, opts: opts, log: opts.Log.With("service", in.Service, "id", in.ID), instance: in,
		poke: make(chan struct{}, 1), gone: make(chan struct{}), alone: make(chan struct{}), told: make(chan struct{}),
		lease: opts.Lease, beat: opts.Heartbeat, reason: "not tried yet",
	}
}

// Run registers and renews until ctx ends or [Registrar.Leave] is through, and then returns nil. It never gives up: a
// refusal or a dead registry only changes what [Registrar.Registered] says. Call it once.
func (r *Registrar) Run(ctx context.Context) error {
	for try, failed := 0, 0; ctx.Err() == nil; try++ {
		seed := r.c.seeds.at(try)
		good, err := r.session(ctx, seed)
		if over := ctx.Err() != nil || r.isGone(); over {
			break
		}
		if good {
			failed = 0
		}
		failed++
		r.lost(seed, good, failed, err)
		pace.Sleep(ctx, r.c.seeds.wait(failed))
	}
	return nil
}

// session renews on one stream until it ends, and reports whether the registry took any heartbeat.
func (r *Registrar) session(ctx context.Context, seed string) (good bool, err error) {
	conn, release, err := r.c.seeds.acquire(seed)
	if err != nil {
		return false, err
	}
	defer release()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discoveryv1.NewDiscoveryClient(conn).Register(ctx)
	if err != nil {
		return false, ended(ctx, err)
	}
	answers, over := make(chan *discoveryv1.RegisterResponse), make(chan error, 1)
	wg.Go(func() { over <- receive(ctx, stream, answers) })

	beat, quiet := time.NewTimer(0), time.NewTimer(r.patience())
	defer beat.Stop()
	defer quiet.Stop()
	for {
		select {
		case m := <-answers:
			quiet.Reset(r.patience())
			r.answer(m, seed, !good)
			good = true
			continue
		case err := <-over:
			return good, r.end(ctx, err)
		case <-quiet.C:
			return good, errs.Errorf(errs.Timeout, "no answer for %v", r.patience())
		case <-beat.C:
		case <-r.poke:
		}
		req, next := r.heartbeat()
		beat.Reset(next)
		_ = stream.Send(req) // when it goes wrong, receive learns why
	}
}

// receive passes on answers until the stream ends.
func receive(ctx context.Context, stream discoveryv1.Discovery_RegisterClient, answers chan<- *discoveryv1.RegisterResponse) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case answers <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// heartbeat returns what to send now, and when to send next.
func (r *Registrar) heartbeat() (*discoveryv1.RegisterRequest, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &discoveryv1.RegisterRequest{
		Instance:   r.instance.toProto(),
		Heartbeat:  durationpb.New(r.opts.Heartbeat),
		Lease:      durationpb.New(r.opts.Lease),
		Deregister: r.leaving,
	}, pace.Jitter(r.beat, 0.1)
}

// patience is how long to wait for an answer before another registry is asked: early enough to keep the lease.
func (r *Registrar) patience() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(r.lease/2, r.beat*3/2)
}

// answer takes note of what the registry made of a heartbeat.
func (r *Registrar) answer(m *discoveryv1.RegisterResponse, seed string, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first {
		r.log.Info("registered", "registry", seed, "status", Status(m.GetInstance().GetStatus()).String()) //nolint:gosec // an enum
	}
	r.answered, r.reason, r.failed = time.Now(), "", 0
	if d := m.GetLease().AsDuration(); d > 0 {
		r.lease = d
	}
	if d := m.GetHeartbeat().AsDuration(); d > 0 {
		r.beat = d
	}
	if m.GetPropagated() && r.spread != r.instance.Status && m.GetInstance().GetReported() == discoveryv1.Status(r.instance.Status) {
		r.spread = r.instance.Status
		close(r.told)
		r.told = make(chan struct{})
	}
}

// end tells the end of a leave that went well (the registry closes the stream without an error) from a broken stream.
func (r *Registrar) end(ctx context.Context, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(err, io.EOF) && r.leaving {
		r.answered, r.reason = time.Time{}, "has left"
		close(r.gone)
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errs.Errorf(errs.Unavailable, "the registry closed the stream")
	}
	return ended(ctx, err)
}

func (r *Registrar) isGone() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

// lost notes why the instance is not being renewed.
func (r *Registrar) lost(seed string, was bool, failed int, err error) {
	r.mu.Lock()
	r.reason = fmt.Sprintf("registry %s: %v", seed, err)
	r.failed++
	r.aloneLocked()
	r.mu.Unlock()
	if was || failed == len(r.c.seeds.order) {
		r.log.Warn("not renewing, trying for ever", "registry", seed, "err", err)
	}
}

// aloneLocked ends a Leave that has nobody to tell.
func (r *Registrar) aloneLocked() {
	if r.leaving && r.failed >= len(r.c.seeds.order) {
		select {
		case <-r.alone:
		default:
			close(r.alone)
		}
	}
}

// SetStatus changes the reported status. The registry is told at once. After [Registrar.Drain] it does nothing: an
// instance that has begun to leave does not come back.
func (r *Registrar) SetStatus(s Status) {
	r.mu.Lock()
	if r.instance.Status != s && !r.draining {
		r.instance.Status, r.spread = s, 0
	}
	r.mu.Unlock()
	r.now()
}

// now has the session send a heartbeat at once.
func (r *Registrar) now() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Registered reports whether a registry has taken a heartbeat within the lease. If not, and also while renewing
// has trouble, the reason is a sentence for people.
func (r *Registrar) Registered() (ok bool, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.answered.IsZero() && time.Since(r.answered) < r.lease, r.reason
}

// Drain reports the instance as DRAINING and waits until the registry says that all connected watchers have
// acknowledged it, so that no new calls come. When ctx ends before, the error has kind errs.Timeout. When no registry
// has ever answered, nobody knows the instance and Drain returns at once. Run must still be running.
func (r *Registrar) Drain(ctx context.Context) error {
	r.mu.Lock()
	if !r.draining {
		r.draining, r.instance.Status, r.spread = true, Draining, 0
	}
	r.mu.Unlock()
	r.now()
	for {
		r.mu.Lock()
		done := r.spread == Draining || r.answered.IsZero()
		told, reason := r.told, r.reason
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-told:
		case <-ctx.Done():
			return errs.Errorf(errs.Timeout, "draining %s/%s: not all watchers have acknowledged it (%s)",
				r.instance.Service, r.instance.ID, cmp.Or(reason, "still waiting"))
		}
	}
}

// Leave has the registry forget the instance, and ends Run. Call Drain before it: to callers, an instance that is
// removed while UP may as well have crashed. When ctx ends before, the error has kind errs.Timeout, when no seed answers
// errs.Unavailable; the lease will do it then. When no registry has ever answered, there is nothing to forget. Run
// must still be running.
func (r *Registrar) Leave(ctx context.Context) error {
	r.mu.Lock()
	never := r.answered.IsZero()
	if !never {
		r.leaving = true
		r.aloneLocked()
	}
	r.mu.Unlock()
	if never {
		return nil
	}
	r.now()
	select {
	case <-r.gone:
		return nil
	case <-r.alone:
		return errs.Errorf(errs.Unavailable, "leaving as %s/%s: no registry answers", r.instance.Service, r.instance.ID)
	case <-ctx.Done():
		return errs.Errorf(errs.Timeout, "leaving as %s/%s: no registry has confirmed it", r.instance.Service, r.instance.ID)
	}
}
