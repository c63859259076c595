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

// RegistrarOptions of a [Registrar]. All fields may be left zero.
type RegistrarOptions struct {
	// Heartbeat is how often the instance renews. Zero: [HeartbeatDefault].
	Heartbeat time.Duration
	// Lease is how long the instance stays registered without a heartbeat. It is at least two heartbeats. Zero:
	// [LeaseDefault].
	Lease time.Duration
	// Log is the logger. Nil: the client's.
	Log *slog.Logger
}

// complete returns a copy with all defaults, or an error of kind errs.Invalid that names each bad field.
func (o RegistrarOptions) complete(c *Client) (RegistrarOptions, error) {
	var bad errs.Violations
	if o.Heartbeat < 0 {
		bad.Addf("Heartbeat", "must not be negative, is %v", o.Heartbeat)
	}
	o.Heartbeat = cmp.Or(o.Heartbeat, HeartbeatDefault)
	o.Lease = cmp.Or(o.Lease, LeaseDefault)
	if o.Lease < 2*o.Heartbeat || o.Lease < 0 {
		bad.Addf("Lease", "must be at least two heartbeats of %v, is %v", o.Heartbeat, o.Lease)
	}
	o.Log = cmp.Or(o.Log, c.log)
	return o, bad.Err("options of a registrar")
}

// Registrar keeps one instance registered. Each heartbeat has the whole instance, so a registry that has lost its data
// gets it again with the next one. It is safe for use by several goroutines. Make it with [NewRegistrar].
type Registrar struct {
	c    *Client
	opts RegistrarOptions
	log  *slog.Logger

	wake         chan struct{} // makes the session send a heartbeat at once
	deregistered chan struct{} // closed when the registry has removed the instance because of Leave

	mu           sync.Mutex
	instance     Instance
	draining     bool          // Drain was called: the status does not change any more
	leaving      bool          // Leave was called
	answered     time.Time     // the last answer; zero: none yet
	lease        time.Duration // as the registry last set it
	beat         time.Duration // as the registry last set it
	reason       string        // why the instance is not registered
	failed       int           // failed tries since the last answer
	unreachable  chan struct{} // closed when every seed has failed while leaving
	acknowledged chan struct{} // closed and replaced when propagated changes
	propagated   Status        // the newest status that all watchers have acknowledged
}

// NewRegistrar returns a registrar of an instance, whose Status is Starting and whose Started is now unless they are
// set. An error has kind errs.Invalid and names the bad options.
func NewRegistrar(c *Client, in Instance, opts RegistrarOptions) (*Registrar, error) {
	opts, err := opts.complete(c)
	if err != nil {
		return nil, err
	}
	in.Status = cmp.Or(in.Status, Starting)
	if in.Started.IsZero() {
		in.Started = time.Now()
	}
	in.Endpoints, in.Metadata = maps.Clone(in.Endpoints), maps.Clone(in.Metadata)
	return &Registrar{
		c: c, opts: opts, log: opts.Log, instance: in,
		wake: make(chan struct{}, 1), deregistered: make(chan struct{}),
		unreachable: make(chan struct{}), acknowledged: make(chan struct{}),
		lease: opts.Lease, beat: opts.Heartbeat, reason: "not tried yet",
	}, nil
}

// Run registers and renews until ctx ends or [Registrar.Leave] has succeeded, and then returns nil. It retries after
// every failure: a refusal or a dead registry only changes what [Registrar.Registered] returns. Call it once.
func (r *Registrar) Run(ctx context.Context) error {
	for try, failed := 0, 0; ctx.Err() == nil; try++ {
		seed := r.c.seeds.at(try)
		good, err := r.session(ctx, seed)
		if ctx.Err() != nil || r.isDeregistered() {
			break
		}
		if good {
			failed = 0
		}
		failed++
		r.lost(seed, good, failed, err)
		pace.Sleep(ctx, r.c.seeds.wait(failed))
	}
	return nil //nolint:nilerr // lost has reported the last failure
}

// session renews on one stream until it ends, and reports whether the registry has accepted any heartbeat.
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
		return false, streamError(ctx, err)
	}
	answers, over := make(chan *discoveryv1.RegisterResponse), make(chan error, 1)
	wg.Go(func() { over <- receive(ctx, stream, answers) })

	beat, quiet := time.NewTimer(0), time.NewTimer(r.answerTimeout())
	defer beat.Stop()
	defer quiet.Stop()
	for {
		select {
		case m := <-answers:
			quiet.Reset(r.answerTimeout())
			r.answer(m, seed, !good)
			good = true
			continue
		case err := <-over:
			return good, r.end(ctx, err)
		case <-quiet.C:
			return good, errs.Errorf(errs.Timeout, "no answer for %v", r.answerTimeout())
		case <-beat.C:
		case <-r.wake:
		}
		req, next := r.heartbeat()
		beat.Reset(next)
		_ = stream.Send(req) // receive returns the reason of a failure
	}
}

// receive passes on answers until the stream ends.
func receive(
	ctx context.Context, stream discoveryv1.Discovery_RegisterClient, answers chan<- *discoveryv1.RegisterResponse,
) error {
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

// heartbeat returns the next message, and how long to wait before the one after it.
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

// answerTimeout is how long to wait for an answer before another registry is used: short enough to keep the lease.
func (r *Registrar) answerTimeout() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(r.lease/2, r.beat*3/2)
}

// answer records the registry's answer to a heartbeat.
func (r *Registrar) answer(m *discoveryv1.RegisterResponse, seed string, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first {
		status := Status(m.GetInstance().GetStatus()) //nolint:gosec // an enum
		r.log.Info("registered", "registry", seed, "status", status.String())
	}
	r.answered, r.reason, r.failed = time.Now(), "", 0
	if d := m.GetLease().AsDuration(); d > 0 {
		r.lease = d
	}
	if d := m.GetHeartbeat().AsDuration(); d > 0 {
		r.beat = d
	}
	current := m.GetInstance().GetReported() == discoveryv1.Status(r.instance.Status)
	if m.GetPropagated() && current && r.propagated != r.instance.Status {
		r.propagated = r.instance.Status
		close(r.acknowledged)
		r.acknowledged = make(chan struct{})
	}
}

// end returns why a stream has ended. It returns nil after a successful Leave: then the registry closes the stream
// without an error.
func (r *Registrar) end(ctx context.Context, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(err, io.EOF) && r.leaving {
		r.answered, r.reason = time.Time{}, "has left"
		close(r.deregistered)
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errs.Errorf(errs.Unavailable, "the registry closed the stream")
	}
	return streamError(ctx, err)
}

func (r *Registrar) isDeregistered() bool {
	select {
	case <-r.deregistered:
		return true
	default:
		return false
	}
}

// lost records why the instance is not being renewed. renewed: the stream had accepted a heartbeat before.
func (r *Registrar) lost(seed string, renewed bool, failed int, err error) {
	r.mu.Lock()
	r.reason = fmt.Sprintf("registry %s: %v", seed, err)
	r.failed++
	r.checkUnreachableLocked()
	r.mu.Unlock()
	if renewed || failed == len(r.c.seeds.order) {
		r.log.Warn("not renewing, retrying until it works", "registry", seed, "error", err)
	}
}

// checkUnreachableLocked ends a Leave when every seed has failed since the last answer.
func (r *Registrar) checkUnreachableLocked() {
	if r.leaving && r.failed >= len(r.c.seeds.order) {
		select {
		case <-r.unreachable:
		default:
			close(r.unreachable)
		}
	}
}

// SetStatus changes the reported status and sends it at once. After [Registrar.Drain] it does nothing: an instance that
// drains does not become UP again.
func (r *Registrar) SetStatus(s Status) {
	r.mu.Lock()
	if r.instance.Status != s && !r.draining {
		r.instance.Status, r.propagated = s, 0
	}
	r.mu.Unlock()
	r.sendNow()
}

// sendNow makes the session send a heartbeat at once.
func (r *Registrar) sendNow() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Registered reports whether a registry has accepted a heartbeat within the lease. The reason says why not. While the
// instance is still registered it is empty, or says why the last heartbeat failed.
func (r *Registrar) Registered() (ok bool, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.answered.IsZero() && time.Since(r.answered) < r.lease, r.reason
}

// Drain reports the instance as DRAINING and waits until the registry says that all connected watchers have
// acknowledged it, so that no new calls come. When ctx ends before, the error has kind errs.Timeout. When no registry
// has ever answered, no caller knows the instance and Drain returns nil at once. Run must still be running.
func (r *Registrar) Drain(ctx context.Context) error {
	r.mu.Lock()
	if !r.draining {
		r.draining, r.instance.Status, r.propagated = true, Draining, 0
	}
	r.mu.Unlock()
	r.sendNow()
	for {
		r.mu.Lock()
		done := r.propagated == Draining || r.answered.IsZero()
		acknowledged, reason := r.acknowledged, r.reason
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-acknowledged:
		case <-ctx.Done():
			return errs.Errorf(errs.Timeout, "draining %s/%s: not all watchers have acknowledged it (%s)",
				r.instance.Service, r.instance.ID, cmp.Or(reason, "still waiting"))
		}
	}
}

// Leave removes the instance from the registry, and ends Run. Call Drain before it: callers treat an instance that is
// removed while UP like one that has crashed. When ctx ends before, the error has kind errs.Timeout, and when no seed
// answers errs.Unavailable; then the registry removes the instance at the end of its lease. When no registry has ever
// answered, Leave returns nil at once. Run must still be running.
func (r *Registrar) Leave(ctx context.Context) error {
	r.mu.Lock()
	never := r.answered.IsZero()
	if !never {
		r.leaving = true
		r.checkUnreachableLocked()
	}
	r.mu.Unlock()
	if never {
		return nil
	}
	r.sendNow()
	select {
	case <-r.deregistered:
		return nil
	case <-r.unreachable:
		return errs.Errorf(errs.Unavailable, "leaving as %s/%s: no registry answers", r.instance.Service, r.instance.ID)
	case <-ctx.Done():
		return errs.Errorf(errs.Timeout, "leaving as %s/%s: no registry has confirmed it",
			r.instance.Service, r.instance.ID)
	}
}
