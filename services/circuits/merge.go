package circuits

import (
	"math"
	"slices"
	"strconv"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/circuit"
	"google.golang.org/protobuf/proto"
)

const maxExamples = 3

// severity orders states; the worst is shown.
var severity = map[circuitsv1.State]int{
	circuitsv1.State_STATE_UNSPECIFIED:   0,
	circuitsv1.State_STATE_CLOSED:        1,
	circuitsv1.State_STATE_FORCED_CLOSED: 2,
	circuitsv1.State_STATE_HALF_OPEN:     3,
	circuitsv1.State_STATE_OPEN:          4,
	circuitsv1.State_STATE_FORCED_OPEN:   5,
}

// first returns a copy of c that others can be merged into.
func first(c *circuitsv1.Snapshot) *circuitsv1.Snapshot {
	sum := proto.Clone(c).(*circuitsv1.Snapshot)
	sum.ReportingHosts = max(sum.ReportingHosts, 1)
	if sum.Properties == nil {
		sum.Properties = map[string]string{}
	}
	if sum.Rolling == nil {
		sum.Rolling = map[string]int64{}
	}
	if sum.LatencyMs == nil {
		sum.LatencyMs = map[string]float64{}
	}
	sum.Properties[circuit.PropertyOpenInstances] = strconv.Itoa(openInstances(c))
	return sum
}

// merge adds c to sum. The order in which many are merged does not matter.
func merge(sum, c *circuitsv1.Snapshot) {
	open := openInstances(sum) + openInstances(c)
	worst(sum, c)
	mergeLatency(sum, c)
	mergeProperties(sum, c)
	sum.Properties[circuit.PropertyOpenInstances] = strconv.Itoa(open)
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

// openInstances returns how many instances of a circuit refuse calls or try.
func openInstances(c *circuitsv1.Snapshot) int {
	if n, err := strconv.Atoi(c.Properties[circuit.PropertyOpenInstances]); err == nil {
		return n
	}
	if severity[c.State] >= severity[circuitsv1.State_STATE_HALF_OPEN] {
		return int(max(c.ReportingHosts, 1))
	}
	return 0
}

// worst keeps the worse state with its reason, and of equal ones the older.
func worst(sum, c *circuitsv1.Snapshot) {
	a, b := severity[sum.State], severity[c.State]
	if b > a || b == a && c.Since.AsTime().Before(sum.Since.AsTime()) {
		sum.State, sum.Reason, sum.Since = c.State, c.Reason, c.Since
	}
}

// mergeLatency weighs by calls. Each instance adds one, so that those without calls in the window have a say too when
// nobody has any.
func mergeLatency(sum, c *circuitsv1.Snapshot) {
	a := float64(sum.Requests) + float64(sum.ReportingHosts)
	b := float64(c.Requests) + float64(max(c.ReportingHosts, 1))
	mean := func(x, y float64) float64 { return (x*a + y*b) / (a + b) }
	sum.LatencyMeanMs = mean(sum.LatencyMeanMs, c.LatencyMeanMs)
	for p, ms := range c.LatencyMs {
		sum.LatencyMs[p] = mean(sum.LatencyMs[p], ms)
	}
}

func mergeProperties(sum, c *circuitsv1.Snapshot) {
	for name, value := range c.Properties {
		old, ok := sum.Properties[name]
		if !ok {
			sum.Properties[name] = value
		}
		if !ok || old == value {
			continue
		}
		x, errX := strconv.ParseFloat(old, 64)
		y, errY := strconv.ParseFloat(value, 64)
		switch {
		case errX == nil && errY == nil:
			a, b := float64(sum.ReportingHosts), float64(max(c.ReportingHosts, 1))
			sum.Properties[name] = strconv.FormatInt(int64(math.Round((x*a+y*b)/(a+b))), 10)
		case old == "false" || value == "true":
			sum.Properties[name] = value
		}
	}
}
