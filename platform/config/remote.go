package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"google.golang.org/grpc"
)

// Options says which settings to follow.
type Options struct {
	// Identity is the process that asks. App and Instance are needed, as file names and in status lists; the other
	// fields decide which layers apply, and may be empty.
	Identity *configv1.Identity
	// Conn leads to the config service. It may connect when it is first used. The caller owns it, and sets the keepalive
	// that finds dead connections.
	Conn grpc.ClientConnInterface
	// Dir is a folder of the process's own for the last known good values. Empty: they are kept in memory only.
	Dir string
	// Log receives what an operator should know: connected, cut off, values refused. Nil: nothing is logged.
	Log *slog.Logger
}

func (o Options) validate() error {
	bad := errs.Errorf(errs.Invalid, "opening settings")
	if err := CheckName(o.Identity.GetApp()); err != nil {
		return bad.Field("Identity.App", err.Error())
	}
	if o.Identity.GetInstance() == "" {
		return bad.Field("Identity.Instance", "must not be empty")
	}
	if o.Conn == nil {
		return bad.Field("Conn", "must not be nil; use Static without a service")
	}
	return nil
}

// remote is what a set needs to follow the config service.
type remote struct {
	client configv1.ConfigClient
	file   string // of the last known good values; empty: none

	// Each holds a token when there is something to do.
	declare, ack, save chan struct{}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// declarationsChanged sees to it that the service hears of a declaration. A static set has no remote.
func (r *remote) declarationsChanged() {
	if r != nil {
		signal(r.declare)
		signal(r.ack) // a value that waited for its declaration may have turned out bad
	}
}

// Limits of the conversation with the service.
const (
	maxMessage     = 64 << 20 // a snapshot of everything
	firstDelay     = 100 * time.Millisecond
	longestDelay   = 5 * time.Second
	declareTimeout = 10 * time.Second
	maxRejections  = 100 // in one acknowledgement
)

// Open returns a set that [Set.Run] feeds from the config service. It does not wait for the service: the values are those
// of the last run, from Dir, and else the defaults. A file that cannot be used is logged and ignored. An error means wrong
// options.
func Open(o Options) (*Set, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := newSet(o.Identity, o.Log)
	s.problem = errors.New("following settings: not started")
	s.remote = &remote{
		client:  configv1.NewConfigClient(o.Conn),
		file:    lastKnownGood(o.Dir, o.Identity),
		declare: make(chan struct{}, 1),
		ack:     make(chan struct{}, 1),
		save:    make(chan struct{}, 1),
	}
	s.load()
	return s, nil
}

// Run declares the settings, follows changes and acknowledges them until ctx ends; then it returns nil. It never gives
// up on the service. Of a static set it only waits.
func (s *Set) Run(ctx context.Context) error {
	if s.remote == nil {
		<-ctx.Done()
		return nil
	}
	var group sync.WaitGroup
	group.Go(func() { s.keepDeclared(ctx) })
	group.Go(func() { s.keepSaved(ctx) })
	s.follow(ctx)
	group.Wait()
	return nil
}

// follow watches, and watches again.
func (s *Set) follow(ctx context.Context) {
	for attempt := 0; ; attempt++ {
		err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.disconnected(err) {
			attempt = 0
			s.log.WarnContext(ctx, "settings: cut off from the config service, keeping the values in use", "revision", s.Revision(), "err", err)
		}
		s.dropExpired(time.Now())
		if !sleep(ctx, delay(attempt)) {
			return
		}
	}
}

// delay returns how long to wait before another attempt: doubling, bounded, and anywhere in its upper half so that
// the processes of a platform do not come back together.
func delay(attempt int) time.Duration {
	d := min(longestDelay, firstDelay<<min(attempt, 10))
	return d/2 + rand.N(d/2)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// session is one stream, from its opening to its end.
func (s *Set) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var acks sync.WaitGroup
	defer acks.Wait()
	defer cancel()
	stream, err := s.remote.client.Watch(ctx, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return err
	}
	hello := s.acknowledgement()
	hello.Identity = s.identity
	if err := stream.Send(hello); err != nil && !errors.Is(err, io.EOF) { // after io.EOF, Recv says why
		return err
	}
	acks.Go(func() { s.acknowledge(ctx, stream) })
	for first := true; ; first = false {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if first != m.GetSnapshot() {
			return fmt.Errorf("following settings: revision %d came as snapshot %t, want only the first to be one", m.GetRevision(), m.GetSnapshot())
		}
		s.apply(m)
		if first {
			s.log.InfoContext(ctx, "settings: following the config service", "revision", m.GetRevision(), "values", len(m.GetValues()))
		}
	}
}

// apply takes a pushed message as a whole: reads see either what was before or what is now, one handle at a time, and
// watchers have returned when it is acknowledged.
func (s *Set) apply(m *configv1.WatchResponse) {
	s.mu.Lock()
	if m.GetSnapshot() {
		// The service lost its data, so perhaps our declarations. At revision 0 nobody can tell.
		if len(s.declared) > 0 && (m.GetRevision() < s.revision || m.GetRevision() == 0) {
			signal(s.remote.declare)
		}
		s.retainLocked(m.GetValues())
		s.connected, s.since, s.problem = true, time.Now(), nil
	}
	for _, name := range m.GetRemoved() {
		s.removeLocked(name)
	}
	for _, v := range m.GetValues() {
		s.setLocked(v)
		if r := s.rejections[v.GetName()]; r != nil {
			s.log.Warn("settings: refusing value, keeping the one in use", "name", r.GetName(), "revision", r.GetRevision(), "problem", r.GetProblem())
		}
	}
	s.revision = m.GetRevision()
	s.refreshLocked()
	s.mu.Unlock()
	s.callWatchers()
	signal(s.remote.ack)
	signal(s.remote.save)
}

// retainLocked forgets all names but those of a snapshot.
func (s *Set) retainLocked(snapshot []*configv1.Value) {
	keep := make(map[string]bool, len(snapshot))
	for _, v := range snapshot {
		keep[v.GetName()] = true
	}
	maps.DeleteFunc(s.values, func(name string, _ *configv1.Value) bool { return !keep[name] })
	maps.DeleteFunc(s.rejections, func(name string, _ *configv1.Rejection) bool { return !keep[name] })
}

// disconnected notes why, and reports whether the set was connected until now.
func (s *Set) disconnected(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.connected
	if was {
		s.connected, s.since = false, time.Now()
	}
	s.problem = fmt.Errorf("following settings: %w", err)
	return was
}

// acknowledge reports what is in use after each change. Changes that come quickly share a report. When the stream
// breaks, session hears of it.
func (s *Set) acknowledge(ctx context.Context, stream configv1.Config_WatchClient) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.remote.ack:
		}
		if connected, _ := s.Connected(); !connected {
			continue
		}
		if stream.Send(s.acknowledgement()) != nil {
			return
		}
	}
}

func (s *Set) acknowledgement() *configv1.WatchRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	ack := &configv1.WatchRequest{AppliedRevision: s.revision}
	for _, name := range slices.Sorted(maps.Keys(s.rejections)) {
		if len(ack.Rejections) == maxRejections {
			break
		}
		ack.Rejections = append(ack.Rejections, s.rejections[name])
	}
	return ack
}

// keepDeclared tells the service the full set of declarations after each change of it, until it has heard.
func (s *Set) keepDeclared(ctx context.Context) {
	for attempt := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-s.remote.declare:
		}
		// Declarations come in bursts, when a process starts and when it first calls another: wait for the end of one.
		if !sleep(ctx, delay(attempt)) {
			return
		}
		select {
		case <-s.remote.declare: // what came meanwhile is declared with the rest
		default:
		}
		err := s.declareAll(ctx)
		switch {
		case err == nil:
			attempt = 0
		case ctx.Err() != nil:
			return
		case errs.KindOf(err) == errs.Invalid:
			s.log.ErrorContext(ctx, "settings: the config service refuses the declarations, values cannot be published", "err", err)
			attempt = 0
		default:
			if attempt++; attempt == 1 {
				s.log.WarnContext(ctx, "settings: cannot declare, trying on", "err", err)
			}
			signal(s.remote.declare)
		}
	}
}

func (s *Set) declareAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, declareTimeout)
	defer cancel()
	s.mu.Lock()
	req := &configv1.DeclareRequest{App: s.identity.GetApp()}
	for _, name := range slices.Sorted(maps.Keys(s.declared)) {
		req.Properties = append(req.Properties, s.declared[name].Proto())
	}
	s.mu.Unlock()
	_, err := s.remote.client.Declare(ctx, req)
	return err
}

// dropExpired ends overrides whose time is over while nobody can be asked. While the service is there it does that, for it
// knows what is underneath; cut off, the default is the best that is known, as it is after a start.
func (s *Set) dropExpired(now time.Time) {
	s.mu.Lock()
	changed := false
	for name, v := range s.values {
		if expired(v, now) {
			s.log.Warn("settings: the override's time is over and the config service is away, using the default", "name", name, "expires", v.GetExpires().AsTime())
			s.removeLocked(name)
			changed = true
		}
	}
	if changed {
		s.refreshLocked()
	}
	s.mu.Unlock()
	if changed {
		s.callWatchers()
		signal(s.remote.save)
	}
}

func expired(v *configv1.Value, now time.Time) bool {
	return v.GetExpires() != nil && !v.GetExpires().AsTime().After(now)
}

// Applies reports whether a value set at scope is one of those that the instance sees: of its app or of every app, and,
// for the layers that have a selector, of its environment, region, zone, version or itself. A layer that is not known
// applies to nobody.
func Applies(scope *configv1.Scope, id *configv1.Identity) bool {
	if app := scope.GetApp(); app != "" && app != id.GetApp() {
		return false
	}
	switch scope.GetLayer() {
	case configv1.Layer_LAYER_APP, configv1.Layer_LAYER_OVERRIDE:
		return scope.GetSelector() == ""
	case configv1.Layer_LAYER_ENVIRONMENT:
		return selects(scope, id.GetEnvironment())
	case configv1.Layer_LAYER_REGION:
		return selects(scope, id.GetRegion())
	case configv1.Layer_LAYER_ZONE:
		return selects(scope, id.GetZone())
	case configv1.Layer_LAYER_VERSION:
		return selects(scope, id.GetVersion())
	case configv1.Layer_LAYER_INSTANCE:
		return selects(scope, id.GetInstance())
	}
	return false
}

func selects(scope *configv1.Scope, mine string) bool {
	return mine != "" && scope.GetSelector() == mine
}
