package console

import (
	"encoding/json"
	"testing"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/load"
	"bijou.dev/platform/load/loadtest"
	"bijou.dev/platform/route"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"
)

// assertShown fails if the page does not get the figures that the circuits service serves, or measuring if it serves
// none.
func assertShown(t *testing.T, what string, got shownLoad, served *circuitsv1.Figures) {
	t.Helper()
	if served == nil {
		if !got.Measuring || got.Figures != nil {
			t.Errorf("%s: measuring %t, figures %v; want measuring and no figures", what, got.Measuring, got.Figures)
		}
		return
	}
	text, err := json.Marshal(got.Figures)
	if err != nil {
		t.Fatal(err)
	}
	shown := &circuitsv1.Figures{}
	if err := protojson.Unmarshal(text, shown); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if diff := cmp.Diff(served, shown, protocmp.Transform()); got.Measuring || diff != "" {
		t.Errorf("%s: measuring %t, figures (-served +shown):\n%s", what, got.Measuring, diff)
	}
}

// TestTrafficHasTheFiguresOfTheAPI has the same input as TestMapShowsTheFiguresOfTheAPI in cmd/bijou/internal/cli: the
// console and the command line show the same figures.
func TestTrafficHasTheFiguresOfTheAPI(t *testing.T) {
	links := loadtest.Links(t)
	c := &Console{answers: newAnswers()}
	c.answers.list = &discoveryv1.ListResponse{}
	c.answers.circuits = &circuitsv1.WatchResponse{Links: links}
	for _, i := range links.Instances {
		in := &discoveryv1.Instance{Service: i.Service, Id: i.Instance}
		c.answers.list.Instances = append(c.answers.list.Instances, in)
	}
	got := c.traffic()
	if len(got.Edges) != len(links.Links) {
		t.Fatalf("the page has %d edges, circuits serves %d links", len(got.Edges), len(links.Links))
	}
	for i, l := range links.Links {
		e := got.Edges[i]
		assertShown(t, l.From+" to "+l.To, e.shownLoad, l.Figures)
		if diff := cmp.Diff(l.NotClosed, e.NotClosed); e.From != l.From || e.To != l.To || diff != "" {
			t.Errorf("edge %s to %s, want %s to %s; circuits not closed (-served +shown):\n%s",
				e.From, e.To, l.From, l.To, diff)
		}
	}
	nodes := map[string]node{}
	for _, n := range got.Nodes {
		nodes[n.Name] = n
	}
	for _, s := range links.Services {
		assertShown(t, s.Service, nodes[s.Service].shownLoad, s.Figures)
	}
	fleet := c.fleet()
	for i, in := range links.Instances {
		assertShown(t, in.Instance, fleet.Instances[i].shownLoad, in.Figures)
	}
}

func TestWithoutTheCircuitsServiceNoLoadIsShown(t *testing.T) {
	c := example()
	c.answers.circuits = nil
	for _, n := range c.traffic().Nodes {
		if n.Figures != nil || n.Measuring {
			t.Errorf("%s has figures %v, measuring %t; want neither", n.Name, n.Figures, n.Measuring)
		}
	}
}

// example is a platform with a stopped instance, an ejected instance and an open circuit.
func example() *Console {
	c := &Console{answers: newAnswers()}
	instance := func(service, id string) *discoveryv1.Instance {
		return &discoveryv1.Instance{Service: service, Id: id, Status: discoveryv1.Status_STATUS_UP}
	}
	c.answers.list = &discoveryv1.ListResponse{Instances: []*discoveryv1.Instance{
		instance("web", "web-1"), instance("catalog", "catalog-1"), instance("catalog", "catalog-2"),
		instance("config", "config-1"),
	}}
	c.answers.probes[instanceKey{"web", "web-1"}] = &probe{ok: true, balancers: map[string][]route.EndpointState{
		"catalog": {
			{ID: "catalog-1", Phase: "admitted"},
			{ID: "catalog-2", Phase: "ejected", Reason: "5 failures in a row"},
		},
	}}
	c.answers.probes[instanceKey{"catalog", "catalog-2"}] = &probe{problem: "it does not answer"}
	p50, p99 := 10.0, 200.0
	calls := &circuitsv1.Figures{
		CallsPerSecond: 12, ErrorPercent: 25, RejectedPerSecond: 2, FallbacksPerSecond: 3, P50Ms: &p50, P99Ms: &p99,
	}
	c.answers.circuits = &circuitsv1.WatchResponse{Links: &circuitsv1.LinksResponse{
		Links: []*circuitsv1.Link{
			{From: "web", To: "catalog", Figures: calls, NotClosed: []string{"catalog.List"}},
			{From: "web", To: "config"},
		},
		Services: []*circuitsv1.ServiceLoad{{Service: "catalog", Figures: calls}, {Service: "config"}},
	}}
	return c
}

func TestTrafficHasInstancesLoadsAndEjections(t *testing.T) {
	got := example().traffic()
	p50, p99 := 10.0, 200.0
	calls := shownLoad{Figures: &figures{
		CallsPerSecond: 12, ErrorPercent: 25, RejectedPerSecond: 2, FallbacksPerSecond: 3, P50: &p50, P99: &p99,
	}}
	measuring := shownLoad{Measuring: true}
	want := traffic{
		Nodes: []node{
			{Name: "catalog", Instances: 2, Up: 1, shownLoad: calls},
			{Name: "config", Platform: true, Instances: 1, Up: 1, shownLoad: measuring},
			{Name: "web", Instances: 1, Up: 1},
		},
		Edges: []edge{{
			From: "web", To: "catalog", shownLoad: calls, NotClosed: []string{"catalog.List"},
			Ejected: map[string]string{"catalog-2": "5 failures in a row"},
		}, {
			From: "web", To: "config", shownLoad: measuring,
		}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(node{}, edge{})); diff != "" {
		t.Errorf("traffic (-want +got):\n%s", diff)
	}
}

func TestVizceral(t *testing.T) {
	v := toVizceral(example().traffic())
	if v.Renderer != "global" || v.EntryNode != load.Internet || len(v.Nodes) != 2 {
		t.Fatalf("the global graph is %+v, want two nodes and the entry INTERNET", v)
	}
	region := v.Nodes[1]
	if len(region.Connections) != 2 || region.MaxVolume != 12 {
		t.Fatalf("the region is %+v, want two connections and maxVolume 12", region)
	}
	want := vizConnection{
		Source: "web", Target: "catalog", Class: "danger",
		Metrics: map[string]float64{"normal": 9, "danger": 3, "warning": 3},
		Notices: []vizNotice{
			{"circuit catalog.List is not closed", 2}, {"catalog-2 is ejected: 5 failures in a row", 1},
		},
	}
	if diff := cmp.Diff(want, region.Connections[0]); diff != "" {
		t.Errorf("the connection (-want +got):\n%s", diff)
	}
	if measuring := region.Connections[1]; len(measuring.Metrics) != 0 {
		t.Errorf("a link that is measuring has metrics %v, want none", measuring.Metrics)
	}
	if n := region.Nodes[0]; n.Name != "catalog" || n.Class != "warning" {
		t.Errorf("a service with a stopped instance is %+v, want catalog with the class warning", n)
	}
}
