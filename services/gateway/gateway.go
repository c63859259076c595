// Package gateway is the edge of the platform: the only process that serves clients outside of it.
//
// It takes HTTP/1.1 and HTTP/2 with and without TLS, gRPC, WebSocket and event streams, finds the route in the routing
// table, which is a live setting, and passes the request to an instance that the balancer picks from those in discovery
// or behind a URL.
//
// # Order of steps
//
//  1. The connection is counted and its bytes are checked: a request that two servers could read in two ways is refused
//     before anything parses it (see framing).
//  2. Trace: the span must show what every later step did.
//  3. Checks of host, path, header and size. What fails here is the client's fault.
//  4. The route, its target by weight, a pinned version. The edge answers here for routes without targets, and CORS
//     preflights of routes with origins: these have no cookies and no key, by which a later step could know the client.
//     Then the limits of the route: of all that can refuse a request because there are too many, they cost least.
//  5. A place in the limit of the origin. When there are more requests than the origin can serve, those of the least
//     critical routes are shed here: after the route is found, which has the criticality, and before all expensive
//     steps. It comes before the circuit, which must not count requests that were not sent.
//  6. Circuit of (service, route): one logical request, however many attempts it takes. The circuit is asked before. It
//     gets the outcome, and the place in the limit is free again, when the answer's header is there: a stream does not
//     hold a place.
//  7. Attempts within the budget, each at another instance, only before the client has got anything and only if the
//     request may be repeated.
//  8. The answer, as it comes, or compressed if its route says so.
//
// # Faults
//
// Each response of 500 or above and each response that the edge makes itself has the side that caused the failure, see
// [Fault]. The response of an origin is passed on unchanged, with any status.
package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
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
	"bijou.dev/services/gateway/internal/acme"
	"bijou.dev/services/gateway/internal/bans"
	"bijou.dev/services/gateway/internal/certs"
	"bijou.dev/services/gateway/internal/compress"
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
	// OriginTLS is for targets with an https URL. Nil: the certificate authorities of the system.
	OriginTLS *tls.Config
	// ACMEClient talks to the certificate authority of ACME. Nil: the certificate authorities of the system.
	ACMEClient *http.Client
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
	origins     origins
	table       atomic.Pointer[table]
	server      *http.Server
	client      client // of all services
	upstreams   *upstream.Set
	conns       *connections
	memory      *memory
	certs       *certs.Store                // nil: there is no TLS
	tls         *tls.Config                 // nil: there is no TLS
	acme        *acme.Issuer                // nil: there is no ACME
	clientCerts atomic.Pointer[clientCerts] // nil: no client is asked for a certificate
	longLived   longLived
	encoders    *compress.Limit
	kept        atomic.Int64 // bytes of bodies that are kept to be sent again
	banned      atomic.Pointer[bans.Table]
	gateways    atomic.Int64 // how many instances of the edge are up, at least 1
	counting    time.Time    // the origin of the times in limits
	unwatch     []func()
	stopping    atomic.Bool

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // requests and tunnels under way
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
	e.origins.edge = e
	e.metrics = newMetrics(opts.Metrics)
	e.conns = newConnections(e)
	e.memory = newMemory(opts.MemoryLimit, opts.Log)
	e.metrics.unread(opts.Metrics, &e.memory.unread)
	e.encoders = compress.NewLimit(opts.MemoryLimit)
	if most := e.memory.maxConns(); most < e.settings.maxConns.Get() {
		e.log.Info("the memory limit allows fewer connections than gateway.maxConnections", "connections", most,
			"limit", opts.MemoryLimit)
	}
	e.client = newClient(opts.DialContext, opts.DialContext)
	e.upstreams = upstream.New(upstream.Options{
		DialContext: opts.DialContext, DialDNS: opts.DialDNS, TLS: opts.OriginTLS, Metrics: opts.Metrics, Log: opts.Log,
	})
	if err := e.openTLS(); err != nil {
		return nil, err
	}
	e.server = e.newServer()
	e.apply(e.settings.routes.Get())
	e.ban(e.settings.banned.Get())
	e.unwatch = append(e.unwatch,
		e.settings.routes.Watch(func(_, list routes.Routes) { e.apply(list) }),
		e.settings.banned.Watch(func(_, list bans.List) { e.ban(list) }),
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

func (e *Edge) newServer() *http.Server {
	traced := e.opts.Trace.Middleware(http.HandlerFunc(e.serve))
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength < 0 && r.Trailer == nil && r.ProtoMajor == 1 {
				// net/http puts a trailer that was not announced here; without a map the copies of r would not see it.
				r.Trailer = http.Header{}
			}
			if e.answerChallenge(w, r) {
				return
			}
			traced.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout:            headerTime,
		IdleTimeout:                  idleTime,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true, // admitForwarding answers "OPTIONS *"
		ErrorLog:                     slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
		ConnContext:                  withConn,
		ConnState: func(c net.Conn, state http.ConnState) {
			if c, ok := c.(*conn); ok {
				c.setState(state)
			}
		},
		Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          100,
			MaxDecoderHeaderTableSize:     4 << 10,
			MaxReadFrameSize:              16 << 10,
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     256 << 10,
			SendPingTimeout:               30 * time.Second, // finds clients that left without closing
			PingTimeout:                   10 * time.Second,
			WriteByteTimeout:              writeTime,
			CountError:                    e.metrics.countHTTP2,
		},
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// Serve takes connections from l until Shutdown or Close, and then returns nil.
func (e *Edge) Serve(l net.Listener) error {
	if err := e.server.Serve(e.conns.listener(l, nil)); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the edge: %w", err)
	}
	return nil
}

// Shutdown stops taking connections and waits for requests in progress: HTTP/1.1 responses have Connection: close,
// HTTP/2 gets GOAWAY. WebSockets get a close frame with code 1001, gRPC streams the status UNAVAILABLE, event streams
// their end, each at a random moment within half of the time that ctx leaves, so that not all clients reconnect at
// once. When ctx ends, the connections that are left are closed; that is not an error.
func (e *Edge) Shutdown(ctx context.Context) error {
	e.stopping.Store(true)
	e.conns.closeUnused()
	e.longLived.drain(ctx)
	err := e.server.Shutdown(ctx)
	if err == nil || errors.Is(err, ctx.Err()) {
		err = e.longLived.wait(ctx)
	}
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
	e.stopping.Store(true)
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	err := e.server.Close()
	e.longLived.close()
	e.work.Wait()
	e.client.close()
	e.origins.close()
	e.closeTLS()
	return err
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
