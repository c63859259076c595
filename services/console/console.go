// Package console serves a web page that shows the state of the platform and can change it.
//
// The console stores nothing. It reads the registry, the circuits, the settings, the traces and the admin page of each
// instance through the same APIs as the command line. It reads them only while a page is open, and each page gets
// changes over one stream. If one of them does not answer, the part of the page that needs it says so, and the rest
// works.
//
// # Traffic
//
// Callers report their calls to the circuits service. The console shows the figures of the last ten seconds as that
// service computes them. A call that an open circuit refuses is an error. The latencies between two services are means
// of the percentiles of their circuits, weighted by calls. That is not the percentile of all calls, but it rises with
// it. Requests from the internet, and the calls that an instance serves, are reported by the gateway and the instances.
//
// # Actions
//
// Each action goes through the API of the service that owns the data. It has an author and a reason, and the console
// logs it as one line "audit". There is no login: everybody who reaches the port may act, unless ReadOnly is set.
// Requests that come from pages of other sites are refused: by Sec-Fetch-Site and Origin, and by the name in Host.
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
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/service"

	"google.golang.org/grpc"
)

// Options configures the service. The zero value is good for one machine.
type Options struct {
	// ReadOnly refuses every action. False: everybody who reaches the port may act.
	ReadOnly bool
	// Hosts are names, without port, by which browsers may reach the console besides localhost and IP addresses. Other
	// names are refused, because another site can make its own name point to this address. Empty: none.
	Hosts []string
	// MaxPages is how many pages may be open at the same time. Zero: 100.
	MaxPages int
	// Files has the front end in its folder dist. Nil: the files that are embedded in the binary.
	Files fs.FS
}

// complete returns a copy with all defaults, or an error that names the wrong fields.
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
	instances func(service string) []discovery.Instance // as the discovery client knows them
	registry  discoveryv1.DiscoveryClient
	circuits  circuitsv1.CircuitsClient
	config    configv1.ConfigClient
	http      *http.Client
	hub       *hub
	answers   *answers
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
		answers:  newAnswers(), site: site,
	}
	c.hub = newHub(opts.MaxPages, c.answers.reset)
	setup.OnStop("connections to admin pages", func(context.Context) error {
		transport.CloseIdleConnections()
		return nil
	})
	setup.OnDrain(c.hub.close)
	setup.OnStop("streams", func(context.Context) error { c.hub.close(); return nil })
	c.follow(setup.Go)
	return setup.Handle("http", c.Handler())
}

// Handler serves the page and its API; see docs/api/console.md.
func (c *Console) Handler() http.Handler {
	var api, pages httpapi.Mux
	api.HandleFunc("GET /api/stream", c.stream)
	api.Handle("GET /api/state/{topic}", httpapi.Answer(c.state))
	api.HandleFunc("GET /api/traces/{path...}", c.traces)
	c.registerActions(&api)
	pages.Handle("GET /vizceral.json", httpapi.Answer(c.vizceral))
	pages.Handle("GET /", c.site)
	// In one mux the pattern "GET /" would also match unknown paths below /api/.
	mux := http.NewServeMux()
	mux.Handle("/api/", &api)
	mux.Handle("/", &pages)
	return c.protect(mux)
}
