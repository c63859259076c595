package console

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
)

// internet is the name of whoever is outside, as Vizceral has it.
const internet = "INTERNET"

// boardSeconds is the rolling window of a circuit's counts.
const boardSeconds = 10

// traffic is who calls whom.
type traffic struct {
	Nodes []node `json:"nodes"`
	Edges []edge `json:"edges"`
}

// node is a service.
type node struct {
	Name string `json:"name"`
	// Platform: it is part of the platform, not of the product.
	Platform bool `json:"platform,omitempty"`
	// Instances counts those registered, Up those that take calls and answer.
	Instances int `json:"instances"`
	Up        int `json:"up"`
	load          // of all calls to it that callers report
}

// edge is all calls of one service to another.
type edge struct {
	From string `json:"from"`
	To   string `json:"to"`
	load
	Rejected  float64 `json:"rejected"`  // a second, by a circuit
	Fallbacks float64 `json:"fallbacks"` // a second
	// Open are circuits that are not closed.
	Open []string `json:"open,omitempty"`
	// Ejected are instances of To that callers leave out, with the reason one of them gave.
	Ejected map[string]string `json:"ejected,omitempty"`
	// Versions is the share of each version of To that the edge's routes ask for. Only edges from a gateway have it.
	Versions map[string]float64 `json:"versions,omitempty"`
}

// platformServices are drawn apart from the product.
var platformServices = []string{"config", "discovery", "circuits", "tracing", "console"}

func (c *Console) followTraffic(ctx context.Context) {
	c.every(ctx, func(context.Context) { c.hub.publish(topicTraffic, c.traffic()) })
}

func (c *Console) traffic() traffic {
	list, _ := c.known()
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	nodes := map[string]*node{}
	of := func(name string) *node {
		if nodes[name] == nil {
			nodes[name] = &node{Name: name, Platform: slices.Contains(platformServices, name)}
		}
		return nodes[name]
	}
	edges := map[[2]string]*sums{}
	between := func(from, to string) *sums {
		of(from)
		of(to)
		key := [2]string{from, to}
		if edges[key] == nil {
			edges[key] = &sums{edge: edge{From: from, To: to}}
		}
		return edges[key]
	}
	for _, in := range list.GetInstances() {
		n := of(in.Service)
		n.Instances++
		p := c.seen.probes[instanceKey{in.Service, in.Id}]
		if status(in.Status) == "UP" && (p == nil || p.ok) {
			n.Up++
		}
		if p == nil {
			continue
		}
		for service, states := range p.balancers {
			service, _, _ = strings.Cut(service, "?")
			for _, s := range states {
				if s.Phase != "admitted" {
					between(in.Service, service).eject(s.ID, s.Reason)
				}
			}
		}
		if l := p.load(); in.Service == "gateway" && p.ok {
			between(internet, in.Service).addLoad(l)
		}
	}
	for _, s := range c.seen.circuits.GetServices() {
		for _, k := range s.GetCircuits() {
			between(s.GetService(), k.GetGroup()).add(k)
		}
	}
	c.addSplits(between)
	t := traffic{Nodes: []node{}, Edges: []edge{}}
	into := map[string]*sums{}
	for _, e := range edges {
		if into[e.To] == nil {
			into[e.To] = &sums{}
		}
		into[e.To].merge(e)
		t.Edges = append(t.Edges, e.result())
	}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		n := *nodes[name]
		if s := into[name]; s != nil {
			n.load = s.result().load
		}
		t.Nodes = append(t.Nodes, n)
	}
	slices.SortFunc(t.Edges, func(a, b edge) int { return cmpStrings(a.From, b.From, a.To, b.To) })
	return t
}

// addSplits adds how the edge's routes split calls over versions.
func (c *Console) addSplits(between func(from, to string) *sums) {
	for _, raw := range c.seen.tables {
		var table struct {
			Routes []struct {
				To []struct {
					Service, Version string
					Weight           float64
				}
			}
		}
		if json.Unmarshal(raw, &table) != nil {
			continue
		}
		for _, r := range table.Routes {
			for _, to := range r.To {
				e := between("gateway", to.Service)
				if to.Version != "" {
					if e.Versions == nil {
						e.Versions = map[string]float64{}
					}
					e.Versions[to.Version] = max(e.Versions[to.Version], to.Weight)
				}
			}
		}
	}
}

// sums adds up what makes an edge. Latencies are weighted by calls.
type sums struct {
	edge
	calls, failed, p50, p99, weight float64
}

func (s *sums) add(k *circuitsv1.Snapshot) {
	r := k.GetRolling()
	rejected := float64(r["SHORT_CIRCUITED"] + r["SEMAPHORE_REJECTED"])
	ran := float64(r["SUCCESS"] + r["FAILURE"] + r["TIMEOUT"] + r["BAD_REQUEST"])
	s.calls += (ran + rejected) / boardSeconds
	s.failed += (float64(r["FAILURE"]+r["TIMEOUT"]) + rejected) / boardSeconds
	s.Rejected += rejected / boardSeconds
	s.Fallbacks += float64(r["FALLBACK_SUCCESS"]) / boardSeconds
	s.weigh(k.GetLatencyMs()["50"], k.GetLatencyMs()["99"], ran)
	if k.GetState() > circuitsv1.State_STATE_CLOSED {
		s.Open = append(s.Open, k.GetName())
	}
}

func (s *sums) addLoad(l *load) {
	if l == nil {
		return
	}
	s.calls += l.Rate
	s.failed += l.Rate * l.ErrorPercent / 100
	s.weigh(l.P50, l.P99, l.Rate)
}

func (s *sums) weigh(p50, p99, calls float64) {
	s.p50, s.p99, s.weight = s.p50+p50*calls, s.p99+p99*calls, s.weight+calls
}

func (s *sums) merge(o *sums) {
	s.calls, s.failed, s.p50, s.p99, s.weight = s.calls+o.calls, s.failed+o.failed, s.p50+o.p50, s.p99+o.p99, s.weight+o.weight
}

func (s *sums) eject(id, reason string) {
	if s.Ejected == nil {
		s.Ejected = map[string]string{}
	}
	s.Ejected[id] = reason
}

func (s *sums) result() edge {
	e := s.edge
	e.Rate, e.Rejected, e.Fallbacks = round(s.calls), round(s.Rejected), round(s.Fallbacks)
	if s.calls > 0 {
		e.ErrorPercent = round(100 * s.failed / s.calls)
	}
	if s.weight > 0 {
		e.P50, e.P99 = round(s.p50/s.weight), round(s.p99/s.weight)
	}
	slices.Sort(e.Open)
	return e
}

// vizceral serves the traffic in the format of Netflix's Vizceral: one region with a node for each service.
func (c *Console) vizceral(w http.ResponseWriter, r *http.Request) {
	data, err := c.fresh(r.Context(), topicTraffic)
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	var t traffic
	if err := json.Unmarshal(data, &t); err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	answer, err := json.Marshal(toVizceral(t))
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	writeJSON(w, answer)
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
	in := map[string]float64{}
	for _, n := range t.Nodes {
		v := vizNode{Renderer: "focusedChild", Name: n.Name, Class: "normal"}
		switch {
		case n.Name != internet && n.Up == 0:
			v.Class, v.Notices = "danger", []vizNotice{{"no instance takes calls", 2}}
		case n.Up < n.Instances:
			v.Class, v.Notices = "warning", []vizNotice{{"not every instance takes calls", 1}}
		}
		region.Nodes = append(region.Nodes, v)
	}
	for _, e := range t.Edges {
		bad := e.Rate * e.ErrorPercent / 100
		v := vizConnection{
			Source: e.From, Target: e.To, Class: class(e.ErrorPercent),
			Metrics: map[string]float64{"normal": round(e.Rate - bad), "danger": round(bad), "warning": e.Fallbacks},
		}
		for _, name := range e.Open {
			v.Notices = append(v.Notices, vizNotice{"circuit " + name + " is not closed", 2})
		}
		for _, id := range slices.Sorted(maps.Keys(e.Ejected)) {
			v.Notices = append(v.Notices, vizNotice{id + " is ejected: " + e.Ejected[id], 1})
		}
		region.Connections = append(region.Connections, v)
		region.MaxVolume = max(region.MaxVolume, e.Rate)
		if e.From == internet {
			in["normal"] += round(e.Rate - bad)
			in["danger"] += round(bad)
		}
	}
	return vizNode{
		Renderer: "global", Name: "edge", EntryNode: internet, MaxVolume: region.MaxVolume,
		Nodes:       []vizNode{{Renderer: "region", Name: internet, Class: "normal"}, region},
		Connections: []vizConnection{{Source: internet, Target: region.Name, Class: "normal", Metrics: in}},
	}
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
