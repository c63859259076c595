// Package console is the page that shows the living system and lets one act on it.
//
// It keeps nothing. What it shows it asks of the other services, by the same APIs that the command line uses: the
// registry, the board of circuits, the settings, the trace store, and the admin page of each instance. It asks only
// while somebody looks, and each page gets what is new over one stream. Any of the others may be away: the part of the
// page that needs it says so, the rest goes on.
//
// # Traffic
//
// Who calls whom, how often and how well is what the callers themselves report to the board of circuits: the events of
// the last ten seconds. A refusal by an open circuit is an error of that edge. Latencies of an edge are means of its
// circuits' percentiles weighted by their calls, which is not the percentile of all calls, but shows the same trouble.
// What comes in from outside, and what each instance answers, is read from their metrics.
//
// # Acting
//
// Each action goes through the API of the service that owns the matter, carries who does it and why, and is written to
// the log as one line "audit". The page has no log-in of its own: whoever reaches the port may act, unless ReadOnly is
// set. A page of another site is refused: by the browser's word on where a request comes from, and by the name it used
// for us.
package console

import (
	"cmp"
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/service"

	"google.golang.org/grpc"
)

// Options configures the service. The zero value is good for one machine.
type Options struct {
	// ReadOnly refuses every action. False: whoever reaches the port may act.
	ReadOnly bool
	// Hosts are names, without port, under which browsers may reach the console beside localhost and addresses. Other
	// names are refused, because a page of another site could make its own name point to us. Empty: none.
	Hosts []string
	// MaxPages is how many pages may be open at once. Zero: 100.
	MaxPages int
	// Files holds the front end in its folder dist. Nil: what was built into the program.
	Files fs.FS
}

// complete returns a copy with the defaults, or an error that names the fields that cannot work.
func (o Options) complete() (Options, error) {
	var bad errs.Violations
	if o.MaxPages < 0 {
		bad.Addf("MaxPages", "must not be negative, is %d", o.MaxPages)
	}
	o.MaxPages = cmp.Or(o.MaxPages, 100)
	if o.Files == nil {
		o.Files = dist
	}
	return o, bad.Err("options of console")
}

// Console is the service without its process.
type Console struct {
	opts      Options
	log       *slog.Logger
	version   string
	instances func(service string) []discovery.Instance // what discovery last knew
	registry  discoveryv1.DiscoveryClient
	circuits  circuitsv1.CircuitsClient
	config    configv1.ConfigClient
	http      *http.Client
	hub       *hub
	seen      *seen
	site      *site
}

// New sets up the console on the listener "http".
func New(_ context.Context, setup *service.Setup, opts Options) error {
	opts, err := opts.complete()
	if err != nil {
		return err
	}
	conns := map[string]grpc.ClientConnInterface{}
	for _, name := range []string{"discovery", "circuits", "config"} {
		conn, err := setup.Dial(name)
		if err != nil {
			return err
		}
		conns[name] = conn
	}
	transport := &http.Transport{DialContext: setup.DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	site, err := openSite(opts.Files)
	if err != nil {
		return err
	}
	c := &Console{
		opts: opts, log: setup.Log(), version: setup.Identity().GetVersion(), instances: setup.Discovery().Instances,
		registry: discoveryv1.NewDiscoveryClient(conns["discovery"]),
		circuits: circuitsv1.NewCircuitsClient(conns["circuits"]),
		config:   configv1.NewConfigClient(conns["config"]),
		http:     &http.Client{Transport: transport},
		seen:     newSeen(), site: site,
	}
	c.hub = newHub(opts.MaxPages, c.seen.forget)
	setup.OnStop("connections to admin pages", func(context.Context) error {
		transport.CloseIdleConnections()
		return nil
	})
	setup.OnDrain(c.hub.close)
	setup.OnStop("pages", func(context.Context) error { c.hub.close(); return nil })
	c.follow(setup.Go)
	return setup.Handle("http", c.Handler())
}

// Handler serves the page and its API; see docs/api/console.md.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/stream", c.stream)
	mux.HandleFunc("GET /api/state/{topic}", c.state)
	mux.HandleFunc("GET /api/traces/{path...}", c.traces)
	mux.HandleFunc("GET /vizceral.json", c.vizceral)
	c.registerActions(mux)
	mux.HandleFunc("/api/", notFound)
	mux.Handle("/", c.site)
	return c.protect(mux)
}
