package config

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
	"bijou.dev/platform/pace"

	"google.golang.org/grpc"
)

// Options are the options of [Open].
type Options struct {
	// Identity is the process whose settings are wanted. Required. App and Instance must be set. The other fields
	// decide which layers apply. Empty: the layer does not apply.
	Identity *configv1.Identity
	// Conn is a connection to the config service. Required. It may connect when it is first used. The caller closes it
	// and configures the keepalive that detects dead connections.
	Conn grpc.ClientConnInterface
	// Dir is a directory of this process alone, for the last known good values. Empty: they are not saved.
	Dir string
	// Log receives what an operator should know: connected, disconnected, values refused. Nil: nothing is logged.
	Log *slog.Logger
}

func (o Options) complete() (Options, error) {
	var bad errs.Violations
	if err := names.Service.Check(o.Identity.GetApp()); err != nil {
		bad.Add("Identity.App", err.Error())
	}
	if err := names.ID.Check(o.Identity.GetInstance()); err != nil {
		bad.Add("Identity.Instance", err.Error())
	}
	if o.Conn == nil {
		bad.Add("Conn", "must not be nil; use Static without a service")
	}
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return o, bad.Err("opening settings")
}

// LiveSet is a [Set] that follows the config service. Make one with [Open].
type LiveSet struct {
	*core
	identity *configv1.Identity
	client   configv1.ConfigClient
	log      *slog.Logger
	file     string // of the last known good values; empty: they are not saved

	// A token in one of these channels asks the goroutine that reads it to declare, acknowledge or save.
	declare, ack, save chan struct{}

	// Guarded by core.mu.
	connected bool
	since     time.Time // when connected last changed
	problem   error     // why the set is not connected
}

// Open returns a set that [LiveSet.Run] keeps equal to the config service. It does not wait for the service: until Run
// has connected, the values are those that were saved in Dir, else the defaults. A file that cannot be read is logged
// and ignored. An error means that the options are wrong.
func Open(o Options) (*LiveSet, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	s := &LiveSet{
		identity: o.Identity,
		client:   configv1.NewConfigClient(o.Conn),
		log:      o.Log,
		file:     fileName(o.Dir, o.Identity),
		declare:  make(chan struct{}, 1),
		ack:      make(chan struct{}, 1),
		save:     make(chan struct{}, 1),
		since:    time.Now(),
		problem:  errors.New("following settings: not started"),
	}
	s.core = newCore(
		func(d *declaration, text string) error { return d.accept(text) },
		func() {
			signal(s.declare)
			signal(s.ack) // a value that came before this declaration may be rejected now
		})
	s.load()
	return s, nil
}

// signal puts a token into a channel that can hold one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run declares the settings to the service, receives changes and acknowledges them until ctx ends. Then it returns nil.
// While the service is away it retries without limit.
func (s *LiveSet) Run(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() { s.keepDeclared(ctx) })
	group.Go(func() { s.keepSaved(ctx) })
	s.follow(ctx)
	group.Wait()
	return nil
}

// Connected reports whether the config service is sending changes to the set at the moment, and since when this is so.
func (s *LiveSet) Connected() (ok bool, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connected, s.since
}

// Problem returns why the set is not connected, or nil if it is.
func (s *LiveSet) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// Entries implements [Set].
func (s *LiveSet) Entries() []Entry {
	return s.entries(func(v *configv1.Value) string { return LayerName(v.GetLayer()) })
}

const declareTimeout = 10 * time.Second

// keepDeclared sends all declarations to the service after each change of them, and retries until it succeeds.
func (s *LiveSet) keepDeclared(ctx context.Context) {
	backoff := pace.Backoff{First: minDelay, Max: maxDelay}
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.declare:
		}
		// Declarations come in bursts, when a process starts and when it first calls another service: send them
		// together.
		if !backoff.Wait(ctx) {
			return
		}
		select {
		case <-s.declare: // made during the wait, and sent with the others
		default:
		}
		err := s.declareAll(ctx)
		switch {
		case err == nil:
			backoff.Reset()
			failing = false
		case ctx.Err() != nil:
			return
		case errs.KindOf(err) == errs.Invalid:
			s.log.ErrorContext(ctx, "settings: the config service refuses the declarations, values cannot be published",
				"error", err)
			backoff.Reset()
			failing = false
		default:
			if !failing {
				s.log.WarnContext(ctx, "settings: cannot declare, retrying", "error", err)
			}
			failing = true
			signal(s.declare)
		}
	}
}

func (s *LiveSet) declareAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, declareTimeout)
	defer cancel()
	_, err := s.client.Declare(ctx, s.declarations())
	return err
}
