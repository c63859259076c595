package gateway

import (
	"sync/atomic"
	"time"

	"bijou.dev/platform/load"
	"bijou.dev/services/gateway/internal/flow"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the edge's own. All names begin with bijou_gateway_.
type metrics struct {
	requests     *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	retries      *prometheus.CounterVec
	hedges       *prometheus.CounterVec
	refused      *prometheus.CounterVec
	limited      *prometheus.CounterVec
	auth         *prometheus.CounterVec
	idleClosed   prometheus.Counter
	http2        *prometheus.CounterVec
	handshakes   *prometheus.CounterVec
	proxyHeaders *prometheus.CounterVec
	mirrored     *prometheus.CounterVec
	inFlight     prometheus.Gauge
	open         prometheus.Gauge
	tunnels      prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bijou_gateway_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "bijou_gateway_" + name, Help: help})
	}
	m := &metrics{
		requests: counter("requests_total", "Requests by route, service, class of status and fault.", "route",
			"service", "class", "fault"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "bijou_gateway_request_seconds",
			Help:    "Time from a request's header to the end of its answer, by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		retries: counter("retries_total", "Attempts after the first, by route.", "route"),
		hedges: counter("hedges_total", "Second attempts beside slow ones, by route and result: won, lost, failed, or why "+
			"none was sent (budget, no_instance).", "route", "result"),
		refused: counter("connections_refused_total",
			"Connections closed at once because there are too many (in all, of one client, or for the memory), because their "+
				"address is banned, or because it is not one of a proxy (gateway.proxyProtocol).", "limit"),
		limited: counter("limited_total", "Requests that a limit of their route refused, or the list of banned addresses.",
			"route", "limit"),
		auth: counter("auth_total", "Requests of routes with auth, by route and what was found: ok, anonymous, missing, "+
			"wrong, forbidden, login (sent to a log-in, or back) or unavailable.", "route", "result"),
		idleClosed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bijou_gateway_connections_idle_closed_total",
			Help: "Idle connections closed because there are too many, to make room for new ones.",
		}),
		http2: counter("http2_errors_total", "Protocol errors and floods of HTTP/2 clients by kind.", "kind"),
		handshakes: counter("tls_handshakes_total", "TLS handshakes by result: ok, or why they were not completed.",
			"result"),
		proxyHeaders: counter("proxy_headers_total",
			"Headers of the PROXY protocol by result: ok, local, or why there was none.", "result"),
		mirrored: counter("mirrored_total",
			"Copies of requests by route and result: ok, failed, or why none was sent (busy, body, memory).", "route",
			"result"),
		inFlight: gauge("requests_in_flight", "Requests that are being answered."),
		open:     gauge("connections_open", "Connections of clients."),
		tunnels:  gauge("websockets_open", "Connections that were upgraded."),
	}
	if r != nil {
		r.MustRegister(m.requests, m.seconds, m.retries, m.hedges, m.refused, m.limited, m.auth, m.idleClosed, m.http2,
			m.handshakes, m.proxyHeaders, m.mirrored, m.inFlight, m.open, m.tunnels)
	}
	return m
}

// unread shows what HTTP/2 clients have sent of bodies that nobody has read yet.
func (m *metrics) unread(reg prometheus.Registerer, bytes *atomic.Int64) {
	if reg == nil {
		return
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bijou_gateway_http2_unread_bytes",
		Help: "Bytes of request bodies that were received over HTTP/2 and not read yet.",
	}, func() float64 { return float64(bytes.Load()) }))
}

func (m *metrics) countHTTP2(kind string) { m.http2.WithLabelValues(kind).Inc() }

var classes = [...]string{"1xx", "2xx", "3xx", "4xx", "5xx"}

func (m *metrics) count(x *exchange) {
	name, service := "", ""
	if x.rule != nil {
		name = x.rule.Name
	}
	if x.sent.Target != nil {
		service = x.sent.Target.Name
	}
	class := "none" // the client left before there was a status
	if i := x.out.Status/100 - 1; i >= 0 && i < len(classes) {
		class = classes[i]
	}
	m.requests.WithLabelValues(name, service, class, string(x.fault)).Inc()
	if x.rule != nil {
		x.rule.seconds.Observe(time.Since(x.in.Start).Seconds())
	}
}

// recordLoad adds the request to the load of the link from the internet. A request that its client gave up is not
// counted, as in every load.
func (x *exchange) recordLoad() {
	served := x.edge.opts.Served
	switch x.fault {
	case flow.FaultClientGone:
	case flow.FaultOverload, flow.FaultCircuit:
		served.Record(load.Rejected, 0)
	case flow.FaultUnreachable, flow.FaultTimeout, flow.FaultOrigin, flow.FaultAuth, flow.FaultGateway:
		served.Record(load.Failed, x.out.Took)
	default:
		if x.out.Status == 0 {
			return // closed before there was a response
		}
		served.Record(load.Succeeded, x.out.Took)
	}
}
