package console

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/route"

	"github.com/google/go-cmp/cmp"
)

func TestAPageThatReadsSlowlySkipsStates(t *testing.T) {
	h := newHub(10, func() {})
	p, err := h.open([]string{topicFleet, topicParts})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10000 {
		h.publish(topicFleet, i)
		h.publish(topicTraffic, i) // it did not ask for this
	}
	h.publish(topicParts, "x")
	if got, want := string(h.take(p)), "event: fleet\ndata: 9999\n\nevent: parts\ndata: \"x\"\n\n"; got != want && got != "event: parts\ndata: \"x\"\n\nevent: fleet\ndata: 9999\n\n" {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := h.take(p); len(got) != 0 {
		t.Errorf("nothing is new, got %q", got)
	}
	h.publish(topicFleet, 9999)
	if got := h.take(p); len(got) != 0 {
		t.Errorf("the same state again is no news, got %q", got)
	}
}

func TestWithoutAFrontEndThePageSaysHowToBuildIt(t *testing.T) {
	s, err := openSite(fstest.MapFS{"dist/README.txt": {Data: []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	if s.built || !strings.Contains(string(s.files["/index.html"].plain), "npm run build") {
		t.Errorf("built %v: %s", s.built, s.files["/index.html"].plain)
	}
}

func metrics(ok, bad, slow int) []byte {
	return fmt.Appendf(nil, `
# TYPE bijou_rpc_server_seconds histogram
bijou_rpc_server_seconds_bucket{method="catalog.v1.Catalog/Get",code="OK",le="0.01"} %d
bijou_rpc_server_seconds_bucket{method="catalog.v1.Catalog/Get",code="OK",le="0.1"} %d
bijou_rpc_server_seconds_bucket{method="catalog.v1.Catalog/Get",code="OK",le="+Inf"} %d
bijou_rpc_server_seconds_sum{method="catalog.v1.Catalog/Get",code="OK"} 1
bijou_rpc_server_seconds_count{method="catalog.v1.Catalog/Get",code="OK"} %d
bijou_rpc_server_seconds_bucket{method="catalog.v1.Catalog/Get",code="Unavailable",le="+Inf"} %d
bijou_rpc_server_seconds_sum{method="catalog.v1.Catalog/Get",code="Unavailable"} 1
bijou_rpc_server_seconds_count{method="catalog.v1.Catalog/Get",code="Unavailable"} %d
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1e6
`, ok, ok+slow, ok+slow, ok+slow, bad, bad)
}

func TestLoadIsWhatHappenedLately(t *testing.T) {
	var p probe
	at := time.Unix(1000, 0)
	if p.read(metrics(1000, 0, 0), at); p.load() != nil || p.memory != 1e6 {
		t.Errorf("one reading gives no rate: %+v", p)
	}
	p.read(metrics(1070, 10, 20), at.Add(10*time.Second))
	want := &load{Rate: 10, ErrorPercent: 10, P50: 7.14, P99: 100}
	if diff := cmp.Diff(want, p.load()); diff != "" {
		t.Errorf("load (-want +got):\n%s", diff)
	}
	p.read(metrics(5, 0, 0), at.Add(12*time.Second)) // a new process
	if p.load() != nil {
		t.Errorf("load over a restart: %+v", p.load())
	}
	p.read([]byte("no metrics"), at)
}

// example is a system with some trouble in it.
func example() *Console {
	c := &Console{seen: newSeen()}
	instance := func(service, id string) *discoveryv1.Instance {
		return &discoveryv1.Instance{Service: service, Id: id, Status: discoveryv1.Status_STATUS_UP}
	}
	c.seen.list = &discoveryv1.ListResponse{Instances: []*discoveryv1.Instance{
		instance("web", "web-1"), instance("catalog", "catalog-1"), instance("catalog", "catalog-2"), instance("config", "config-1"),
	}}
	c.seen.probes[instanceKey{"web", "web-1"}] = &probe{ok: true, balancers: map[string][]route.EndpointState{
		"catalog": {{ID: "catalog-1", Phase: "admitted"}, {ID: "catalog-2", Phase: "ejected", Reason: "5 failures in a row"}},
	}}
	c.seen.probes[instanceKey{"catalog", "catalog-2"}] = &probe{problem: "nobody listens at its address"}
	c.seen.circuits = &circuitsv1.WatchResponse{Services: []*circuitsv1.ServiceCircuits{{
		Service: "web",
		Circuits: []*circuitsv1.Snapshot{
			{Name: "catalog.Get", Group: "catalog", State: circuitsv1.State_STATE_CLOSED, Rolling: map[string]int64{"SUCCESS": 90}, LatencyMs: map[string]float64{"50": 10, "99": 100}},
			{Name: "catalog.List", Group: "catalog", State: circuitsv1.State_STATE_OPEN, Rolling: map[string]int64{"FAILURE": 10, "SHORT_CIRCUITED": 20, "FALLBACK_SUCCESS": 30}, LatencyMs: map[string]float64{"50": 20, "99": 200}},
		},
	}}}
	return c
}

func TestTrafficIsWhatCallersReport(t *testing.T) {
	got := example().traffic()
	calls := load{Rate: 12, ErrorPercent: 25, P50: 11, P99: 110}
	want := traffic{
		Nodes: []node{
			{Name: "catalog", Instances: 2, Up: 1, load: calls},
			{Name: "config", Platform: true, Instances: 1, Up: 1},
			{Name: "web", Instances: 1, Up: 1},
		},
		Edges: []edge{{
			From: "web", To: "catalog", load: calls, Rejected: 2, Fallbacks: 3, Open: []string{"catalog.List"},
			Ejected: map[string]string{"catalog-2": "5 failures in a row"},
		}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(node{}, edge{})); diff != "" {
		t.Errorf("traffic (-want +got):\n%s", diff)
	}
}

func TestVizceral(t *testing.T) {
	v := toVizceral(example().traffic())
	if v.Renderer != "global" || v.EntryNode != internet || len(v.Nodes) != 2 {
		t.Fatalf("the globe: %+v", v)
	}
	region := v.Nodes[1]
	if len(region.Connections) != 1 || region.MaxVolume != 12 {
		t.Fatalf("the region: %+v", region)
	}
	want := vizConnection{
		Source: "web", Target: "catalog", Class: "danger", Metrics: map[string]float64{"normal": 9, "danger": 3, "warning": 3},
		Notices: []vizNotice{{"circuit catalog.List is not closed", 2}, {"catalog-2 is ejected: 5 failures in a row", 1}},
	}
	if diff := cmp.Diff(want, region.Connections[0]); diff != "" {
		t.Errorf("the connection (-want +got):\n%s", diff)
	}
	if n := region.Nodes[0]; n.Name != "catalog" || n.Class != "warning" {
		t.Errorf("a service with a dead instance: %+v", n)
	}
}
