// Package config is the configuration service. Settings have layers, are published as revisions, are sent to each
// process and acknowledged by it.
//
// A publish is a batch of changes with an author and a reason. It is checked against what the apps declared. Then it
// becomes one revision, written in one transaction of the store, or it is refused as a whole. Revisions are counted
// from 1 without gaps, and the history keeps all of them. publish.go lists the steps of a publish and where they are.
//
// Each replica has a copy of the current values in memory, which one watch on the store keeps up to date. It answers
// reads from there, also while the store is away. A write has the condition that the newest revision is still the one
// it was checked against, so replicas do not need to know of each other. Only Status asks the other replicas, because
// each knows only the instances that watch it.
package config

import (
	"cmp"
	"context"
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

// Options are the options of a replica.
type Options struct {
	// EtcdEndpoints are the addresses of the store: "etcd:2379". Empty: Store is required.
	EtcdEndpoints []string
	// Store is used instead of EtcdEndpoints. Nil: the replica connects to EtcdEndpoints. The caller closes it.
	Store kv.Store
	// MaxValueBytes is the largest value. Zero: 256 KiB, which is also the most, because processes accept no more.
	MaxValueBytes int
	// MaxChanges is how many changes a publish may have. Zero: 100. At most 126, which is what fits a transaction of the
	// store.
	MaxChanges int
	// Peers returns clients of the other replicas by name, for Status. Nil: there are none. [New] sets it: it finds the
	// replicas through discovery.
	Peers func() map[string]configv1.ConfigClient
	// Registered returns all registered instances, for Status, which also counts those that should watch but do not. The
	// error says why the list may be out of date. Nil: Status counts only instances that watch. [New] sets it: it uses
	// the process's own view of discovery.
	Registered func() ([]discovery.Instance, error)
	// Log receives what an operator should know. Nil: nothing is logged. [New] sets it to the process's log.
	Log *slog.Logger
}

func (o Options) complete() (Options, error) {
	var bad errs.Violations
	if o.Store == nil && len(o.EtcdEndpoints) == 0 {
		bad.Add("EtcdEndpoints", "must not be empty; set -etcd-endpoints=host:2379")
	}
	if o.MaxValueBytes < 0 || o.MaxValueBytes > settings.MaxText {
		bad.Addf("MaxValueBytes", "must be 0 to %d, is %d", settings.MaxText, o.MaxValueBytes)
	}
	if o.MaxChanges < 0 || o.MaxChanges > maxRollback {
		bad.Addf("MaxChanges", "must be 0 to %d, is %d", maxRollback, o.MaxChanges)
	}
	o.MaxValueBytes = cmp.Or(o.MaxValueBytes, settings.MaxText)
	o.MaxChanges = cmp.Or(o.MaxChanges, 100)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return o, bad.Err("config options")
}

// New sets up a replica: gRPC on the listener "grpc" and, if there is a listener "http", REST there.
func New(_ context.Context, setup *service.Setup, opts Options) error {
	opts.Log = setup.Log()
	replicas := &peers{
		Peers: discovery.Peers{
			Directory: setup.Discovery(), Service: setup.Name(), Self: setup.Instance(), Endpoint: "grpc",
		},
		log: opts.Log,
		client: rpc.NewClient(rpc.ClientOptions{
			Service: setup.Name(), Trace: setup.Tracer(), DialContext: setup.DialContext,
		}),
		conns: map[string]*rpc.Conn{},
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

// registered returns all instances that discovery knows, from memory, and why that list may be out of date.
func registered(d *discovery.Directory) ([]discovery.Instance, error) {
	return d.Instances(""), d.Current()
}

// observe registers the replica's metrics.
func (s *Server) observe(r prometheus.Registerer) {
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "bijou_config_service_" + name, Help: help}, value))
	}
	gauge("revision", "The newest revision that this replica has seen.", func() float64 {
		return float64(s.state.base().revision)
	})
	gauge("watchers", "Instances that watch this replica.", func() float64 {
		return float64(len(s.watching("")))
	})
	gauge("writable", "1 while settings can be published, else 0.", func() float64 {
		if s.Problem() != nil {
			return 0
		}
		return 1
	})
}

// peers has connections to the other replicas. They are made when Status is first called.
type peers struct {
	discovery.Peers
	log    *slog.Logger
	client *rpc.Client

	mu    sync.Mutex
	conns map[string]*rpc.Conn // address -> connection
}

// all returns a client for each other replica that is registered, and closes connections to those that no longer are.
func (r *peers) all() map[string]configv1.ConfigClient {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := map[string]configv1.ConfigClient{}
	used := map[string]bool{}
	for _, peer := range r.List() {
		if r.conns[peer.Addr] == nil {
			conn, err := r.client.Dial("passthrough:///" + peer.Addr)
			if err != nil {
				r.log.Warn("config: cannot connect to a replica", "replica", peer.ID, "error", err)
				continue
			}
			r.conns[peer.Addr] = conn
		}
		used[peer.Addr] = true
		found[peer.ID] = configv1.NewConfigClient(r.conns[peer.Addr])
	}
	maps.DeleteFunc(r.conns, func(addr string, conn *rpc.Conn) bool {
		if !used[addr] {
			_ = conn.Close() // fails only when it is closed already
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
