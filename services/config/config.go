// Package config is the configuration service: layered settings, published as revisions, pushed to every process and
// acknowledged by it.
//
// A publish is a batch of changes with an author and a reason. It is checked against what the owning apps declared
// and becomes one revision, written in one transaction of the store, or is refused as a whole. Revisions are counted
// from 1 without gaps, and the history keeps all of them.
//
// Each replica keeps the current values in memory, fed by one watch on the store, and answers reads from there, also
// while the store is away. Writes go to the store on the condition that the newest revision is still the one they were
// checked against, so replicas need not know of each other. Only Status asks the other replicas: each knows the
// instances that watch it.
//
// Feature flags are settings whose values are JSON documents; an evaluation interface for them belongs beside rest.go.
package config

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/service"

	"github.com/prometheus/client_golang/prometheus"
)

// Options of a replica.
type Options struct {
	// EtcdEndpoints are the addresses of the store: "etcd:2379". Needed, unless there is a Store.
	EtcdEndpoints []string
	// Store is used instead of EtcdEndpoints. The caller closes it.
	Store kv.Store
	// MaxValueBytes is the largest value. Zero: 256 KiB, which is the most that processes take.
	MaxValueBytes int
	// MaxChanges is how many changes a publish may have. Zero: 100; at most 126, which is what a transaction of the store
	// holds.
	MaxChanges int
	// Peers returns the other replicas by name, for Status. Nil: there are none. [New] finds them through discovery.
	Peers func() map[string]configv1.ConfigClient
	// Registered returns everybody in the registry, for Status, which counts those that ought to watch. The error says why
	// the list may not be true at the moment. Nil: only who watches is known. [New] uses the process's own view of discovery.
	Registered func() ([]discovery.Instance, error)
	// Log receives what an operator should know. Nil: nothing is logged. [New] uses the process's.
	Log *slog.Logger
}

func (o Options) complete() Options {
	o.MaxValueBytes = cmp.Or(o.MaxValueBytes, settings.MaxText)
	o.MaxChanges = cmp.Or(o.MaxChanges, 100)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return o
}

func (o Options) validate() error {
	bad := errs.Errorf(errs.Invalid, "config options")
	switch {
	case o.Store == nil && len(o.EtcdEndpoints) == 0:
		return bad.Field("EtcdEndpoints", "must not be empty; set -etcd-endpoints=host:2379")
	case o.MaxValueBytes < 0 || o.MaxValueBytes > settings.MaxText:
		return bad.Field("MaxValueBytes", fmt.Sprintf("must be 0 to %d, is %d", settings.MaxText, o.MaxValueBytes))
	case o.MaxChanges < 0 || o.MaxChanges > kv.MaxOps-2:
		return bad.Field("MaxChanges", fmt.Sprintf("must be 0 to %d, is %d", kv.MaxOps-2, o.MaxChanges))
	}
	return nil
}

// New sets up a replica: gRPC on the listener "grpc" and, if there is a listener "http", REST there.
func New(_ context.Context, setup *service.Setup, opts Options) error {
	opts.Log = setup.Log()
	replicas := &peers{
		self:   setup.Member,
		client: rpc.NewClient(rpc.ClientOptions{Service: setup.Name(), Trace: setup.Tracer(), DialContext: setup.DialContext}),
		conns:  map[string]*rpc.Conn{},
	}
	opts.Peers = replicas.all
	opts.Registered = func() ([]discovery.Instance, error) { return registered(setup.Discovery()) }
	s, err := NewServer(opts)
	if err != nil {
		return err
	}
	setup.OnStop("store", func(context.Context) error { return s.Close() })
	setup.OnStop("connections to replicas", func(context.Context) error { return replicas.close() })
	configv1.RegisterConfigServer(setup.GRPC(), s)
	if setup.Addr("http") != "" {
		if err := setup.Handle("http", s.Handler()); err != nil {
			return err
		}
	}
	setup.OnDrain(s.Release)
	setup.Go("config", s.Run)
	setup.Ready("store read", s.Loaded)
	setup.Note("store", s.Problem)
	s.observe(setup.Metrics())
	return nil
}

// registered returns everybody that discovery knows, from memory, and why that may be old news.
func registered(d *discovery.Directory) ([]discovery.Instance, error) {
	return d.Instances(""), d.Current()
}

// observe registers the replica's metrics.
func (s *Server) observe(r prometheus.Registerer) {
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "bijou_config_service_" + name, Help: help}, value))
	}
	gauge("revision", "The newest revision that this replica has seen.", func() float64 {
		newest, _ := s.newest()
		return float64(newest)
	})
	gauge("watchers", "Instances that watch this replica.", func() float64 { return float64(len(s.watching(""))) })
	gauge("writable", "1 while the store takes publishes, else 0.", func() float64 {
		if s.writable() != nil {
			return 0
		}
		return 1
	})
}

// peers are connections to the other replicas, made when Status is first asked for.
type peers struct {
	self   *service.Member
	client *rpc.Client

	mu    sync.Mutex
	conns map[string]*rpc.Conn // address -> connection
}

// all returns a client for each other replica that is registered, and lets go of those that are not any more.
func (r *peers) all() map[string]configv1.ConfigClient {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := map[string]configv1.ConfigClient{}
	used := map[string]bool{}
	for _, in := range r.self.Discovery().Instances(r.self.Name()) {
		addr := in.Endpoints["grpc"]
		if in.ID == r.self.Instance() || addr == "" {
			continue
		}
		if r.conns[addr] == nil {
			conn, err := r.client.Dial("passthrough:///" + addr)
			if err != nil {
				r.self.Log().Warn("config: cannot connect to a replica", "replica", in.ID, "err", err)
				continue
			}
			r.conns[addr] = conn
		}
		used[addr] = true
		found[in.ID] = configv1.NewConfigClient(r.conns[addr])
	}
	maps.DeleteFunc(r.conns, func(addr string, conn *rpc.Conn) bool {
		if !used[addr] {
			_ = conn.Close() // it is ours alone, and closing twice is its only error
		}
		return !used[addr]
	})
	return found
}

func (r *peers) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns {
		_ = conn.Close()
	}
	clear(r.conns)
	return nil
}
