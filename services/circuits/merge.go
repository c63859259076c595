package circuits

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/load"
	"google.golang.org/protobuf/proto"
)

const maxExamples = 3

// severity orders states. A sum has the worst state of its parts.
var severity = map[circuitsv1.State]int{
	circuitsv1.State_STATE_UNSPECIFIED:   0,
	circuitsv1.State_STATE_CLOSED:        1,
	circuitsv1.State_STATE_FORCED_CLOSED: 2,
	circuitsv1.State_STATE_HALF_OPEN:     3,
	circuitsv1.State_STATE_OPEN:          4,
	circuitsv1.State_STATE_FORCED_OPEN:   5,
}

// merged returns the parts summed per calling service, with loads that can be merged further.
func merged(parts []*circuitsv1.ServiceCircuits) *circuitsv1.WatchResponse {
	services := map[string]*serviceSum{}
	for _, p := range parts {
		s := services[p.Service]
		if s == nil {
			s = &serviceSum{circuits: map[string]*circuitSum{}}
			services[p.Service] = s
		}
		s.add(p)
	}
	resp := &circuitsv1.WatchResponse{}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		resp.Services = append(resp.Services, services[name].result(name))
	}
	return resp
}

// shown returns the parts summed per calling service as watchers see them: with figures in the place of loads.
func shown(parts []*circuitsv1.ServiceCircuits) *circuitsv1.WatchResponse {
	resp := merged(parts)
	for _, s := range resp.Services {
		s.Served = nil
		for _, c := range s.Circuits {
			var l load.Load
			l.AddProto(c.Load)
			c.Figures, c.Load = l.Figures(), nil
		}
	}
	return resp
}

// total returns the circuits of all parts in one list, as a Turbine cluster does, and the number of processes.
func total(parts []*circuitsv1.ServiceCircuits) (circuits []*circuitsv1.Snapshot, processes int) {
	all := &serviceSum{circuits: map[string]*circuitSum{}}
	for _, s := range merged(parts).Services {
		processes += len(s.Instances)
		all.add(s)
	}
	return all.result("").Circuits, processes
}

// serviceSum adds up the parts of one calling service.
type serviceSum struct {
	instances []string
	circuits  map[string]*circuitSum
	served    []*circuitsv1.Served
}

func (s *serviceSum) add(part *circuitsv1.ServiceCircuits) {
	s.instances = append(s.instances, part.Instances...)
	s.served = append(s.served, part.Served...)
	for _, c := range part.Circuits {
		sum := s.circuits[c.Name]
		if sum == nil {
			sum = &circuitSum{}
			s.circuits[c.Name] = sum
		}
		sum.add(c)
	}
}

func (s *serviceSum) result(service string) *circuitsv1.ServiceCircuits {
	slices.Sort(s.instances)
	slices.SortFunc(s.served, func(a, b *circuitsv1.Served) int { return cmp.Compare(a.Instance, b.Instance) })
	resp := &circuitsv1.ServiceCircuits{
		Service: service, Instances: slices.Compact(s.instances), Served: s.served,
	}
	for _, name := range slices.Sorted(maps.Keys(s.circuits)) {
		resp.Circuits = append(resp.Circuits, s.circuits[name].result())
	}
	return resp
}

// circuitSum adds up one circuit. The order in which the parts are added does not matter.
type circuitSum struct {
	snap *circuitsv1.Snapshot // nil: no part was added
	load load.Load
}

func (s *circuitSum) add(c *circuitsv1.Snapshot) {
	s.load.AddProto(c.Load)
	if s.snap == nil {
		s.snap = first(c)
		return
	}
	sum := s.snap
	sum.OpenInstances += circuit.OpenInstances(c)
	worst(sum, c)
	mergeProperties(sum, c)
	for event, n := range c.Rolling {
		sum.Rolling[event] += n
	}
	sum.Requests += c.Requests
	sum.Errors += c.Errors
	if sum.Requests > 0 {
		sum.ErrorPercentage = int32(sum.Errors * 100 / sum.Requests)
	}
	sum.Concurrent += c.Concurrent
	sum.MaxConcurrent += c.MaxConcurrent
	sum.ReportingHosts += max(c.ReportingHosts, 1)
	for _, id := range c.ExampleTraces {
		if len(sum.ExampleTraces) < maxExamples && !slices.Contains(sum.ExampleTraces, id) {
			sum.ExampleTraces = append(sum.ExampleTraces, id)
		}
	}
}

func (s *circuitSum) result() *circuitsv1.Snapshot {
	s.snap.Load = s.load.Proto()
	return s.snap
}

// first returns a copy of c that others can be merged into.
func first(c *circuitsv1.Snapshot) *circuitsv1.Snapshot {
	sum := proto.CloneOf(c)
	sum.ReportingHosts = max(sum.ReportingHosts, 1)
	if sum.Properties == nil {
		sum.Properties = map[string]string{}
	}
	if sum.Rolling == nil {
		sum.Rolling = map[string]int64{}
	}
	sum.OpenInstances = circuit.OpenInstances(c)
	return sum
}

// worst keeps the worse state with its reason, and of equal states the older one.
func worst(sum, c *circuitsv1.Snapshot) {
	a, b := severity[sum.State], severity[c.State]
	if b > a || b == a && c.Since.AsTime().Before(sum.Since.AsTime()) {
		sum.State, sum.Reason, sum.Since = c.State, c.Reason, c.Since
	}
}

// mergeProperties keeps what is equal, averages numbers, and makes a flag true if it is true in any instance.
func mergeProperties(sum, c *circuitsv1.Snapshot) {
	for name, value := range c.Properties {
		old, ok := sum.Properties[name]
		if !ok {
			sum.Properties[name] = value
		}
		if !ok || old == value {
			continue
		}
		a, b := float64(sum.ReportingHosts), float64(max(c.ReportingHosts, 1))
		mean := func(x, y float64) int64 { return int64(math.Round((x*a + y*b) / (a + b))) }
		x, errX := strconv.ParseFloat(old, 64)
		y, errY := strconv.ParseFloat(value, 64)
		d, errD := time.ParseDuration(old)
		e, errE := time.ParseDuration(value)
		switch {
		case errX == nil && errY == nil:
			sum.Properties[name] = strconv.FormatInt(mean(x, y), 10)
		case errD == nil && errE == nil:
			sum.Properties[name] = time.Duration(mean(float64(d), float64(e))).String()
		case old == "false" || value == "true":
			sum.Properties[name] = value
		}
	}
}
