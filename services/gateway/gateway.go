// Package gateway is the edge of the platform: the only process that serves clients outside of it.
//
// It takes HTTP/1.1 and HTTP/2 with and without TLS, gRPC, WebSocket and event streams, finds the route in the routing
// table, which is a live setting, and passes the request to an instance that the balancer picks from those in discovery
// or behind a URL.
//
// # Order of steps
//
//  1. The connection is counted ([connections]), and package http1 or http2 reads a request from it. A request that two
//     servers could read in two ways is refused.
//  2. accept: who has sent it, and its span, which must show what every later step did.
//  3. check: host, path, header and client. What fails here is the client's fault.
//  4. route: the route, and what it asks of the request. Then limit: of all that can refuse a request because there are
//     too many, the limits of the route cost least.
//  5. authenticate: who calls, if the route asks. It costs more than limits, and less than what they protect. Then
//     limitIdentity: the limits that count by caller.
//  6. respond: the edge answers for routes without targets, and CORS preflights of routes with origins. These have no
//     cookies and no key, by which an earlier step could know the client.
//  7. forward: a place in limiter and circuit, attempts, and the response as it comes, see package forward.
//  8. report: metrics, log and span. Then the end of the response is sent.
//
// # Faults
//
// Each response of 500 or above and each response that the edge makes itself has the side that caused the failure, see
// flow.Fault. The response of an origin is passed on unchanged, with any status.
package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/load"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/service"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway/internal/accesslog"
	"bijou.dev/services/gateway/internal/acme"
	"bijou.dev/services/gateway/internal/auth/apikey"
	"bijou.dev/services/gateway/internal/auth/hook"
	"bijou.dev/services/gateway/internal/auth/jwks"
	"bijou.dev/services/gateway/internal/auth/login"
	"bijou.dev/services/gateway/internal/bans"
	"bijou.dev/services/gateway/internal/certs"
	"bijou.dev/services/gateway/internal/compress"
	"bijou.dev/services/gateway/internal/errorpage"
	"bijou.dev/services/gateway/internal/forward"
	"bijou.dev/services/gateway/internal/http2"
	"bijou.dev/services/gateway/internal/mirror"
	"bijou.dev/services/gateway/internal/origin"
	"bijou.dev/services/gateway/internal/proxyproto"
	"bijou.dev/services/gateway/internal/upstream"
	"bijou.dev/services/gateway/routes"

	"github.com/prometheus/client_golang/prometheus"
)

// Options configures the gateway. The zero value has no routes until the setting gateway.routes has.
type Options struct {
	// Routes are used until the setting gateway.routes has a value. Nil: none, every request gets 404.
	Routes routes.Routes
	// Certs is the folder of certificates for TLS, read again when it changes. A certificate NAME.crt or NAME.pem lies
	// beside its key NAME.key, and fullchain.pem beside privkey.pem, there or in a folder directly below. Empty: there
	// is no TLS.
	Certs string
	// ACMEDir is the folder that keeps what is got by ACME, see the setting gateway.acme. Empty: there is no ACME.
	ACMEDir string
	// AccessLog is the file that gets the lines of the access log that are text, see the setting gateway.accessLog.form.
	// Empty: they are in Log, as the field "line".
	AccessLog string
	// Secrets is the folder of the secrets whose names are in routes. Empty: there are none.
	Secrets string
}

// New sets up the edge on the listener "http", over TLS on "https" if there is such a listener, and its table on the
// admin page /routes.
func New(_ context.Context, setup *service.Setup, opts Options) error {
	e, err := NewEdge(EdgeOptions{
		Options: opts, Service: setup.Name(), Zone: setup.Zone(), Config: setup.Config(), Discovery: setup.Discovery(),
		Circuits: setup.Circuits(), Overload: setup.Overload(), Served: setup.Served(), Trace: setup.Tracer(),
		Metrics: setup.Metrics(), DialContext: setup.DialContext, Log: setup.Log(),
	})
	if err != nil {
		return err
	}
	setup.Served().ServeInternet()
	setup.Admin().Handle("/routes", e.RoutesHandler())
	setup.Admin().Handle("/routes/check", e.CheckHandler())
	setup.Note("identity providers", e.providers.Check)
	setup.OnStop("edge", func(context.Context) error { return e.Close() })
	switch listens := setup.Addr("https") != ""; {
	case listens && e.tls == nil:
		return errs.Errorf(errs.Invalid,
			`serving TLS on listener "https": there are no certificates; set -certs or -acme-dir`)
	case !listens && e.tls != nil:
		return errs.Errorf(errs.Invalid,
			`serving TLS with -certs or -acme-dir: there is no listener "https"; add https=:8443 to -listen`)
	case listens:
		if err := setup.Serve("https", tlsServer{e}); err != nil {
			return err
		}
		setup.Note("certificates", e.certs.Check)
		if e.acme != nil {
			setup.Note("acme", e.acme.Check)
		}
	}
	return setup.Serve("http", e)
}

// EdgeOptions is what an Edge works with.
type EdgeOptions struct {
	Options
	// Service is what the edge is called in Discovery. Limits that are shared are divided by the number of its instances.
	// Empty: "gateway".
	Service string
	// Zone is where the edge runs; instances in it are preferred. Empty: no preference.
	Zone string
	// Config holds the settings. Nil: the defaults.
	Config config.Set
	// Discovery has the instances. Required.
	Discovery *discovery.Directory
	// Circuits guards the origins. Nil: circuits with default settings.
	Circuits *circuit.Set
	// Overload makes the limiters of the origins. Nil: limiters with the settings of Config.
	Overload *overload.Set
	// Served gets the load of all requests. Nil: it is not measured.
	Served *load.Recorder
	// Trace records requests. Nil: nothing is recorded.
	Trace *trace.Provider
	// Metrics gets bijou_gateway_*. Nil: none.
	Metrics prometheus.Registerer
	// MemoryLimit is how many bytes of memory the process may use: it limits connections. Zero: GOMEMLIMIT or the limit
	// of the container, whichever is lower; without these there is no limit.
	MemoryLimit int64
	// DialContext connects to instances. Nil: the real network.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// DialDNS connects to DNS servers, for targets with a name in a URL. Nil: the real network.
	DialDNS func(ctx context.Context, network, addr string) (net.Conn, error)
	// OriginTLS is for targets with an https URL, and for hooks of auth. Nil: the certificate authorities of the system.
	OriginTLS *tls.Config
	// ACMEClient talks to the certificate authority of ACME. Nil: the certificate authorities of the system.
	ACMEClient *http.Client
	// AuthClient talks to identity providers. Nil: the certificate authorities of the system.
	AuthClient *http.Client
	// Seed decides which paths and which clients share places in the limits of an origin. Zero: a random seed.
	Seed uint32
	// Log gets the access log and messages for operators. Nil: nothing is logged.
	Log *slog.Logger
}

// complete returns the options with all defaults.
func (o EdgeOptions) complete() (EdgeOptions, error) {
	if err := o.Routes.Validate(); err != nil {
		return o, fmt.Errorf("option Routes: %w", err)
	}
	if o.Discovery == nil {
		return o, errs.Errorf(errs.Invalid,
			"option Discovery: is missing; use discovery.NewStatic to run without a registry")
	}
	if o.MemoryLimit < 0 {
		return o, errs.Errorf(errs.Invalid, "option MemoryLimit: must not be negative, is %d", o.MemoryLimit)
	}
	o.Service = cmp.Or(o.Service, "gateway")
	o.MemoryLimit = cmp.Or(o.MemoryLimit, memoryLimit())
	if o.Config == nil {
		o.Config = config.Static(nil)
	}
	if o.Circuits == nil {
		o.Circuits = circuit.New(circuit.Options{Config: o.Config})
	}
	if o.Overload == nil {
		o.Overload = overload.New(overload.Options{Config: o.Config, Metrics: o.Metrics})
	}
	if o.Served == nil {
		o.Served = load.NewRecorder()
	}
	if o.Trace == nil {
		o.Trace = trace.Discard()
	}
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{}).DialContext
	}
	if o.AuthClient == nil {
		o.AuthClient = newAuthClient()
	}
	o.Seed = cmp.Or(o.Seed, rand.Uint32())
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Edge is a gateway without a process. Make one with NewEdge, run it with Serve, end it with Shutdown.
type Edge struct {
	opts        EdgeOptions
	log         *slog.Logger
	settings    *settings
	metrics     *metrics
	origins     *origin.Set
	forwarder   *forward.Forwarder
	table       atomic.Pointer[table]
	http2       *http2.Server
	upstreams   *upstream.Set
	conns       *connections
	memory      *memory
	release     release
	certs       *certs.Store                // nil: there is no TLS
	tls         *tls.Config                 // nil: there is no TLS
	acme        *acme.Issuer                // nil: there is no ACME
	clientCerts atomic.Pointer[clientCerts] // nil: no client is asked for a certificate
	encoders    *compress.Limit
	banned      atomic.Pointer[bans.Table]
	proxies     atomic.Pointer[proxies]
	pages       atomic.Pointer[errorpage.Table] // nil: none
	access      accessLog
	mirrorBytes *mirror.Budget
	mirroring   context.Context // ends with the edge, and then copies of requests do
	stopMirrors context.CancelFunc
	keys        atomic.Pointer[apikey.Table] // of API
	providers   *jwks.Set
	hooks       *hook.Set
	secrets     *login.Secrets
	logins      map[string]*loginMethod // of the table in use: settings -> log-in; for apply alone
	gateways    atomic.Int64            // how many instances of the edge are up, at least 1
	counting    time.Time               // the origin of the times in limits
	unwatch     []func()
	stopping    atomic.Bool

	mu        sync.Mutex
	listeners []net.Listener
	closed    bool
	work      sync.WaitGroup // requests and tunnels under way
}

// NewEdge returns an edge that follows its settings. It serves nothing before Serve, and must be closed.
func NewEdge(opts EdgeOptions) (*Edge, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	e := &Edge{
		opts: opts, log: opts.Log, settings: declare(opts.Config, opts.Routes),
		counting: time.Now().Add(-time.Second), // so that no time is 0
	}
	e.mirrorBytes = mirror.NewBudget(mostMirrored)
	e.mirroring, e.stopMirrors = context.WithCancel(context.Background())
	e.metrics = newMetrics(opts.Metrics)
	e.conns = newConnections(e)
	e.memory = newMemory(opts.MemoryLimit, opts.Log)
	e.metrics.unread(opts.Metrics, &e.memory.unread)
	e.encoders = compress.NewLimit(opts.MemoryLimit)
	if most := e.memory.maxConns(); most < e.settings.maxConns.Get() {
		e.log.Info("the memory limit allows fewer connections than gateway.maxConnections", "connections", most,
			"limit", opts.MemoryLimit)
	}
	e.upstreams = upstream.New(upstream.Options{
		DialContext: opts.DialContext, DialDNS: opts.DialDNS, TLS: opts.OriginTLS, Metrics: opts.Metrics, Log: opts.Log,
	})
	e.origins = origin.NewSet(origin.Options{
		Zone: opts.Zone, Config: opts.Config, Route: e.settings.route, Discovery: opts.Discovery, Overload: opts.Overload,
		Upstreams: e.upstreams, DialContext: opts.DialContext, Seed: opts.Seed,
	})
	e.forwarder = forward.New(forward.Options{
		Circuits: opts.Circuits, Trace: opts.Trace, Tunnels: e.metrics.tunnels.Add, Go: e.work.Go, Defect: e.defect,
		Retried: func(route string) { e.metrics.retries.WithLabelValues(route).Inc() },
		Hedged:  func(route, result string) { e.metrics.hedges.WithLabelValues(route, result).Inc() },
	})
	e.access.log = e.log
	if opts.AccessLog != "" {
		if e.access.file, err = accesslog.OpenFile(opts.AccessLog); err != nil {
			return nil, err
		}
	}
	if err := e.openTLS(); err != nil {
		return nil, err
	}
	e.providers = jwks.NewSet(jwks.Options{Client: opts.AuthClient, Log: opts.Log})
	e.hooks = hook.NewSet(hook.Options{DialContext: opts.DialContext, TLS: opts.OriginTLS})
	e.secrets = login.NewSecrets(opts.Secrets, opts.Log)
	e.http2 = e.newHTTP2()
	e.useKeys(e.settings.keys.Get())
	e.apply(e.settings.routes.Get())
	e.ban(e.settings.banned.Get())
	e.trustProxies(e.settings.proxyProtocol.Get())
	e.setPages(e.settings.errorPages.Get())
	e.setLogForm(e.settings.accessLogForm.Get())
	e.unwatch = append(e.unwatch,
		e.settings.routes.Watch(func(_, list routes.Routes) { e.apply(list) }),
		e.settings.banned.Watch(func(_, list bans.List) { e.ban(list) }),
		e.settings.accessLogForm.Watch(func(_, s accesslog.Settings) { e.setLogForm(s) }),
		e.settings.errorPages.Watch(func(_, list errorpage.Pages) { e.setPages(list) }),
		e.settings.proxyProtocol.Watch(func(_, t proxyproto.Trusted) { e.trustProxies(t) }),
		e.settings.keys.Watch(func(_, list apikey.List) { e.useKeys(list) }),
		opts.Discovery.Watch(opts.Service, e.countGateways))
	return e, nil
}

// apply makes a list of routes the table in use. Requests in progress finish with the table that they began with.
func (e *Edge) apply(list routes.Routes) {
	t, err := routes.Compile(list)
	if err != nil { // cannot happen: the setting was validated
		e.log.Error("keeping the previous routes", "error", err)
		return
	}
	bound := e.bind(t)
	e.clientCerts.Store(e.newClientCerts(bound)) // before requests need them
	e.table.Store(bound)
	e.log.Info("routes in use", "routes", len(t.Rules), "revision", e.opts.Config.Revision())
}

// setPages puts the pages for failures into use.
func (e *Edge) setPages(list errorpage.Pages) {
	t, err := errorpage.Compile(list)
	if err != nil { // cannot happen: the setting was validated
		e.log.Error("keeping the previous error pages", "error", err)
		return
	}
	e.pages.Store(t)
}

// newHTTP2 returns what serves clients of HTTP/2.
func (e *Edge) newHTTP2() *http2.Server {
	return http2.NewServer(http2.Options{
		Count:   e.metrics.countHTTP2,
		Receive: func(c http2.Conn, n int) bool { return e.memory.receive(c.(*conn), n) },
		Read:    func(c http2.Conn, n int) { e.memory.read(c.(*conn), n) },
		Log:     e.log,
	})
}

// Serve takes connections from l until Shutdown or Close, and then returns nil.
func (e *Edge) Serve(l net.Listener) error { return e.listen(l, nil) }

func (e *Edge) listen(l net.Listener, over *tls.Config) error {
	e.mu.Lock()
	if e.stopping.Load() {
		e.mu.Unlock()
		return l.Close()
	}
	e.listeners = append(e.listeners, l)
	e.mu.Unlock()
	return e.conns.serve(l, over)
}

// stopListening ends Serve and ServeTLS.
func (e *Edge) stopListening() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopping.Store(true)
	for _, l := range e.listeners {
		_ = l.Close() // it is not needed any more
	}
	e.listeners = nil
}

// Shutdown stops taking connections and waits for requests in progress: HTTP/1.1 responses have Connection: close,
// HTTP/2 gets GOAWAY. WebSockets get a close frame with code 1001, gRPC streams the status UNAVAILABLE, event streams
// their end, each at a random moment within half of the time that ctx leaves, so that not all clients reconnect at
// once. When ctx ends, the connections that are left are closed; that is not an error.
func (e *Edge) Shutdown(ctx context.Context) error {
	e.stopListening()
	e.conns.closeUnused()
	e.forwarder.Drain(ctx)
	e.conns.closeIdle()
	e.http2.Drain()
	err := e.conns.wait(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		e.log.Warn("stopping the edge: closing connections that did not end in time")
		err = nil
	}
	return errors.Join(err, e.Close())
}

// Close closes all connections at once. It may be called more than once.
func (e *Edge) Close() error {
	for _, stop := range e.unwatch {
		stop()
	}
	e.stopListening()
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.conns.closeAll()
	e.release.stop()
	e.http2.Close()
	e.forwarder.Close()
	e.stopMirrors()
	e.work.Wait()
	e.origins.Close()
	e.providers.Close()
	e.hooks.Close()
	e.closeTLS()
	if e.access.file != nil {
		return e.access.file.Close()
	}
	return nil
}

// begin counts a request; false: the edge is closed.
func (e *Edge) begin() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.work.Add(1)
	}
	return !e.closed
}
