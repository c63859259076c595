// Package spantest makes traces for tests and benchmarks: of a film shop with five services, in varied shapes.
package spantest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"bijou.dev/services/tracing/internal/span"
)

// Source makes traces that depend on its seed only.
type Source struct {
	rand  *rand.Rand
	trace []span.Span
	begin int64
}

// New returns a source.
func New(seed uint64) *Source { return &Source{rand: rand.New(rand.NewPCG(seed, 7))} }

var hosts = map[string]netip.Addr{}

func init() {
	for i, s := range []string{"gateway", "web", "catalog", "recommendations", "ratings", "viewing"} {
		hosts[s] = netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
	}
}

// Trace returns a trace of 9 spans that begins at a time. One in twenty fails.
func (s *Source) Trace(at time.Time) []span.Span {
	s.trace, s.begin = nil, at.UnixMicro()
	id := span.TraceID{Hi: s.rand.Uint64(), Lo: s.rand.Uint64()}
	film := fmt.Sprint(s.rand.IntN(3200))
	gw := s.add(id, 0, span.Server, "gateway", "GET /films/{id}", "", "http.request.method", "GET", "url.path",
		"/films/"+film,
		"http.route", "/films/{id}", "http.response.status_code", "200", "client.address",
		fmt.Sprintf("192.0.2.%d", s.rand.IntN(250)))
	call := s.add(id, gw, span.Client, "gateway", "web.v1.Web/Page", "web", "rpc.system.name", "grpc", "rpc.method",
		"web.v1.Web/Page", "bijou.pick", fmt.Sprintf("web-%d", s.rand.IntN(3)))
	web := s.add(id, call, span.Server, "web", "web.v1.Web/Page", "", "rpc.system.name", "grpc", "rpc.method",
		"web.v1.Web/Page", "rpc.response.status_code", "OK")
	for _, callee := range []string{"catalog", "recommendations", "ratings"} {
		method := callee + ".v1.Service/Get"
		c := s.add(id, web, span.Client, "web", method, callee, "rpc.system.name", "grpc", "rpc.method", method,
			"bijou.pick", fmt.Sprintf("%s-%d", callee, s.rand.IntN(3)), "film.id", film)
		s.add(id, c, span.Server, callee, method, "", "rpc.system.name", "grpc", "rpc.method", method,
			"rpc.response.status_code", "OK")
	}
	if s.rand.IntN(20) == 0 {
		last := &s.trace[len(s.trace)-1]
		last.Tags = append(last.Tags, span.Tag{Key: "error", Value: "deadline exceeded"})
	}
	return s.trace
}

func (s *Source) add(id span.TraceID, parent span.ID, kind span.Kind, service, name, remote string,
	tags ...string,
) span.ID {
	sp := span.Span{
		Trace: id, ID: span.ID(s.rand.Uint64()), Parent: parent, Kind: kind, Name: name,
		Start: s.begin + int64(len(s.trace))*int64(100+s.rand.IntN(400)), Duration: int64(500 + s.rand.ExpFloat64()*20_000),
		Local: span.Endpoint{Service: service},
	}
	if remote != "" {
		sp.Remote = span.Endpoint{Service: remote, IPv4: hosts[remote], Port: 7000}
	}
	for _, t := range [][2]string{
		{"service.instance.id", service + "-1"},
		{"service.version", "v1.4.2"},
		{"deployment.environment.name", "local"},
		{"cloud.availability_zone", "a"},
		{"telemetry.sdk.language", "go"},
		{"otel.scope.name", "bijou.dev/platform"},
	} {
		sp.Tags = append(sp.Tags, span.Tag{Key: t[0], Value: t[1]})
	}
	for i := 0; i < len(tags); i += 2 {
		sp.Tags = append(sp.Tags, span.Tag{Key: tags[i], Value: tags[i+1]})
	}
	s.trace = append(s.trace, sp)
	return sp.ID
}
