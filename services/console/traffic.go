package console

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/load"
)

// traffic is the topic traffic: which service calls which.
type traffic struct {
	Nodes []node `json:"nodes"`
	Edges []edge `json:"edges"`
}

// node is a service.
type node struct {
	Name string `json:"name"`
	// Platform: the service is part of the platform, not of the product.
	Platform bool `json:"platform,omitempty"`
	// Instances is the number of registered instances, Up of those with status UP whose admin page answers.
	Instances int `json:"instances"`
	Up        int `json:"up"`
	shownLoad     // of all calls to the service
}

// edge is all calls of one service to another.
type edge struct {
	From string `json:"from"`
	To   string `json:"to"`
	shownLoad
	// NotClosed has the names of the circuits of this link that are not closed.
	NotClosed []string `json:"notClosed,omitempty"`
	// Ejected is instance of To that callers have ejected -> reason of one of the callers.
	Ejected map[string]string `json:"ejected,omitempty"`
	// Versions is version of To -> its weight in the routes of the gateway. Only links of the gateway have it.
	Versions map[string]float64 `json:"versions,omitempty"`
}

// shownLoad is a load as the circuits service computes it. With neither field, no load is reported.
type shownLoad struct {
	// Measuring: the reports do not cover ten seconds yet.
	Measuring bool     `json:"measuring,omitempty"`
	Figures   *figures `json:"figures,omitempty"`
}

// figures has the fields of circuitsv1.Figures under the same names.
type figures struct {
	CallsPerSecond     float64  `json:"callsPerSecond"`
	ErrorPercent       float64  `json:"errorPercent"`
	RejectedPerSecond  float64  `json:"rejectedPerSecond"`
	FallbacksPerSecond float64  `json:"fallbacksPerSecond"`
	P50                *float64 `json:"p50Ms,omitempty"`
	P90                *float64 `json:"p90Ms,omitempty"`
	P99                *float64 `json:"p99Ms,omitempty"`
}

func shownLoadOf(f *circuitsv1.Figures) shownLoad {
	if f == nil {
		return shownLoad{Measuring: true}
	}
	return shownLoad{Figures: &figures{
		CallsPerSecond: f.CallsPerSecond, ErrorPercent: f.ErrorPercent,
		RejectedPerSecond: f.RejectedPerSecond, FallbacksPerSecond: f.FallbacksPerSecond,
		P50: f.P50Ms, P90: f.P90Ms, P99: f.P99Ms,
	}}
}

// instanceLoadsLocked returns the load that each instance reports for the calls that it serves.
func (a *answers) instanceLoadsLocked() map[instanceKey]shownLoad {
	loads := map[instanceKey]shownLoad{}
	for _, i := range a.circuits.GetLinks().GetInstances() {
		loads[instanceKey{i.Service, i.Instance}] = shownLoadOf(i.Figures)
	}
	return loads
}

// platformServices are hidden on the map unless the user asks for them.
var platformServices = []string{"config", "discovery", "circuits", "tracing", "console"}

func (c *Console) followTraffic(ctx context.Context) {
	c.poll(ctx, func(context.Context) { c.hub.publish(topicTraffic, c.traffic()) })
}

// graph collects the nodes and edges of traffic.
type graph struct {
	nodes map[string]*node
	edges map[[2]string]*edge
}

func (d *graph) node(name string) *node {
	if d.nodes[name] == nil {
		d.nodes[name] = &node{Name: name, Platform: slices.Contains(platformServices, name)}
	}
	return d.nodes[name]
}

func (d *graph) edge(from, to string) *edge {
	d.node(from)
	d.node(to)
	key := [2]string{from, to}
	if d.edges[key] == nil {
		d.edges[key] = &edge{From: from, To: to}
	}
	return d.edges[key]
}

func (c *Console) traffic() traffic {
	list, _ := c.currentInstances()
	c.answers.mu.Lock()
	defer c.answers.mu.Unlock()
	d := &graph{nodes: map[string]*node{}, edges: map[[2]string]*edge{}}
	for _, in := range list.GetInstances() {
		n := d.node(in.Service)
		n.Instances++
		p := c.answers.probes[instanceKey{in.Service, in.Id}]
		if status(in.Status) == "UP" && (p == nil || p.ok) {
			n.Up++
		}
		if p != nil {
			d.addEjections(in.Service, p)
		}
	}
	for _, l := range c.answers.circuits.GetLinks().GetLinks() {
		e := d.edge(l.From, l.To)
		e.shownLoad, e.NotClosed = shownLoadOf(l.Figures), l.NotClosed
	}
	for _, s := range c.answers.circuits.GetLinks().GetServices() {
		d.node(s.Service).shownLoad = shownLoadOf(s.Figures)
	}
	for _, table := range c.answers.tables {
		d.addSplits(table)
	}
	return d.result()
}

func (d *graph) result() traffic {
	t := traffic{Nodes: []node{}, Edges: []edge{}}
	for _, name := range slices.Sorted(maps.Keys(d.nodes)) {
		t.Nodes = append(t.Nodes, *d.nodes[name])
	}
	for _, e := range d.edges {
		t.Edges = append(t.Edges, *e)
	}
	slices.SortFunc(t.Edges, func(a, b edge) int {
		return cmp.Or(strings.Compare(a.From, b.From),
			strings.Compare(a.To, b.To))
	})
	return t
}

// addEjections adds the instances that one instance of service has ejected.
func (d *graph) addEjections(service string, p *probe) {
	for target, states := range p.balancers {
		target, _, _ = strings.Cut(target, "?")
		for _, s := range states {
			if s.Phase == "admitted" {
				continue
			}
			e := d.edge(service, target)
			if e.Ejected == nil {
				e.Ejected = map[string]string{}
			}
			e.Ejected[s.ID] = messageOf(s.ID, s.Reason)
		}
	}
}

// addSplits adds the weight of each version in the routes of a gateway.
func (d *graph) addSplits(raw json.RawMessage) {
	var table struct {
		Routes []struct {
			To []struct {
				Service, Version string
				Weight           float64
			}
		}
	}
	if json.Unmarshal(raw, &table) != nil {
		return
	}
	for _, r := range table.Routes {
		for _, to := range r.To {
			e := d.edge("gateway", to.Service)
			if to.Version == "" {
				continue
			}
			if e.Versions == nil {
				e.Versions = map[string]float64{}
			}
			e.Versions[to.Version] = max(e.Versions[to.Version], to.Weight)
		}
	}
}

// vizceral returns the traffic in the format of Netflix's Vizceral: one region with a node for each service.
func (c *Console) vizceral(r *http.Request) (vizNode, error) {
	data, err := c.awaitState(r.Context(), topicTraffic)
	if err != nil {
		return vizNode{}, err
	}
	var t traffic
	if err := json.Unmarshal(data, &t); err != nil {
		return vizNode{}, err
	}
	return toVizceral(t), nil
}

type (
	vizNode struct {
		Renderer    string          `json:"renderer,omitempty"`
		Name        string          `json:"name"`
		EntryNode   string          `json:"entryNode,omitempty"`
		MaxVolume   float64         `json:"maxVolume,omitempty"`
		Class       string          `json:"class,omitempty"`
		Updated     int64           `json:"updated,omitempty"`
		Nodes       []vizNode       `json:"nodes,omitempty"`
		Connections []vizConnection `json:"connections,omitempty"`
		Notices     []vizNotice     `json:"notices,omitempty"`
	}
	vizConnection struct {
		Source  string             `json:"source"`
		Target  string             `json:"target"`
		Class   string             `json:"class,omitempty"`
		Metrics map[string]float64 `json:"metrics"`
		Notices []vizNotice        `json:"notices,omitempty"`
	}
	// vizNotice has severity 0 info, 1 warning, 2 danger.
	vizNotice struct {
		Title    string `json:"title"`
		Severity int    `json:"severity"`
	}
)

func toVizceral(t traffic) vizNode {
	region := vizNode{Renderer: "region", Name: "local", Class: "normal", MaxVolume: 1}
	in := map[string]float64{} // requests from the internet; empty: measuring
	for _, n := range t.Nodes {
		v := vizNode{Renderer: "focusedChild", Name: n.Name, Class: "normal"}
		switch {
		case n.Name != load.Internet && n.Up == 0:
			v.Class, v.Notices = "danger", []vizNotice{{"no instance takes calls", 2}}
		case n.Up < n.Instances:
			v.Class, v.Notices = "warning", []vizNotice{{"not every instance takes calls", 1}}
		}
		region.Nodes = append(region.Nodes, v)
	}
	for _, e := range t.Edges {
		region.Connections = append(region.Connections, toConnection(e))
		if e.Figures == nil {
			continue
		}
		region.MaxVolume = max(region.MaxVolume, e.Figures.CallsPerSecond)
		if e.From == load.Internet {
			in = e.Figures.metrics()
		}
	}
	return vizNode{
		Renderer: "global", Name: "edge", EntryNode: load.Internet, MaxVolume: region.MaxVolume,
		Nodes:       []vizNode{{Renderer: "region", Name: load.Internet, Class: "normal"}, region},
		Connections: []vizConnection{{Source: load.Internet, Target: region.Name, Class: "normal", Metrics: in}},
	}
}

func toConnection(e edge) vizConnection {
	v := vizConnection{Source: e.From, Target: e.To, Class: "normal", Metrics: map[string]float64{}}
	if e.Figures != nil {
		v.Class, v.Metrics = class(e.Figures.ErrorPercent), e.Figures.metrics()
	}
	for _, name := range e.NotClosed {
		v.Notices = append(v.Notices, vizNotice{"circuit " + name + " is not closed", 2})
	}
	for _, id := range slices.Sorted(maps.Keys(e.Ejected)) {
		v.Notices = append(v.Notices, vizNotice{id + " is ejected: " + e.Ejected[id], 1})
	}
	return v
}

// metrics returns calls per second: normal, danger for errors, warning for answers by a fallback.
func (f *figures) metrics() map[string]float64 {
	danger := f.CallsPerSecond * f.ErrorPercent / 100
	return map[string]float64{"normal": f.CallsPerSecond - danger, "danger": danger, "warning": f.FallbacksPerSecond}
}

func class(errorPercent float64) string {
	switch {
	case errorPercent >= 5:
		return "danger"
	case errorPercent > 0:
		return "warning"
	default:
		return "normal"
	}
}
