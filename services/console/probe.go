package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"bijou.dev/platform/route"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	// probeLimit bounds one round of questions to one instance.
	probeLimit = 900 * time.Millisecond
	// probesAtOnce bounds the instances asked at the same time.
	probesAtOnce = 32
	// window is what rates are worked out over.
	window = 10 * time.Second
)

// probe is what an instance's admin page said, and when it stopped saying anything.
type probe struct {
	ok        bool
	problem   string
	since     time.Time // when ok last changed
	checks    []check
	balancers map[string][]route.EndpointState // service -> its instances, as this one sees them
	memory    float64
	threads   float64
	revision  float64
	counts    []counts // the newest last, over about a window
	late      bool     // the last round had no answer in time
	round     int
}

// check is one line of /readyz.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"`
	Reason string `json:"reason,omitempty"`
}

// counts are what an instance has answered since it began.
type counts struct {
	at            time.Time
	total, failed float64
	buckets       map[float64]float64 // upper bound in seconds -> answers up to it
}

// shownAdmin is what an instance says of itself.
type shownAdmin struct {
	OK         bool      `json:"ok"`
	Problem    string    `json:"problem,omitempty"`
	Since      time.Time `json:"since"`
	Checks     []check   `json:"checks,omitempty"`
	Revision   int64     `json:"revision"`
	Memory     int64     `json:"memoryBytes"`
	Goroutines int64     `json:"goroutines"`
	Load       *load     `json:"load,omitempty"` // nil: it answers nothing that is counted
}

// load is a number of calls over the last seconds.
type load struct {
	Rate         float64 `json:"rate"`         // a second
	ErrorPercent float64 `json:"errorPercent"` // of the calls
	P50          float64 `json:"p50Ms"`
	P99          float64 `json:"p99Ms"`
}

func (p *probe) shown() *shownAdmin {
	s := &shownAdmin{
		OK: p.ok, Problem: p.problem, Since: p.since, Checks: p.checks,
		Revision: int64(p.revision), Memory: int64(p.memory), Goroutines: int64(p.threads),
	}
	if p.ok {
		s.Load = p.load()
	}
	return s
}

// load is the difference between the oldest and the newest counts.
func (p *probe) load() *load {
	if len(p.counts) < 2 {
		return nil
	}
	first, last := p.counts[0], p.counts[len(p.counts)-1]
	n, seconds := last.total-first.total, last.at.Sub(first.at).Seconds()
	if last.total == 0 || n < 0 || seconds <= 0 {
		return nil
	}
	l := &load{Rate: round(n / seconds)}
	if n > 0 {
		l.ErrorPercent = round(100 * (last.failed - first.failed) / n)
		l.P50, l.P99 = quantile(first.buckets, last.buckets, n, .5), quantile(first.buckets, last.buckets, n, .99)
	}
	return l
}

// quantile interpolates within the bucket, as Prometheus does. What is beyond the last bound has that bound.
func quantile(first, last map[float64]float64, n, q float64) float64 {
	bounds := make([]float64, 0, len(last))
	for b := range last {
		if !math.IsInf(b, 1) {
			bounds = append(bounds, b)
		}
	}
	slices.Sort(bounds)
	lower, below := 0.0, 0.0
	for _, b := range bounds {
		if upTo := last[b] - first[b]; upTo >= q*n {
			return round(1000 * (lower + (b-lower)*(q*n-below)/(upTo-below)))
		}
		lower, below = b, last[b]-first[b]
	}
	return round(1000 * lower)
}

// round leaves three digits: more would be noise, and would make equal pictures differ.
func round(x float64) float64 {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}

// askInstances asks every instance's admin page.
func (c *Console) askInstances(ctx context.Context) {
	list, _ := c.known()
	places := make(chan struct{}, probesAtOnce)
	var asking sync.WaitGroup
	present := map[instanceKey]bool{}
	for _, in := range list.GetInstances() {
		addr := in.Endpoints["admin"]
		if addr == "" {
			continue
		}
		key := instanceKey{in.Service, in.Id}
		present[key] = true
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			c.askInstance(ctx, key, addr)
		})
	}
	asking.Wait()
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	for key := range c.seen.probes {
		if !present[key] {
			delete(c.seen.probes, key)
		}
	}
}

// askInstance asks whether one is ready, and in turns for its balancers and its metrics, which change less or cost more.
func (c *Console) askInstance(ctx context.Context, key instanceKey, addr string) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	c.seen.mu.Lock()
	var next probe
	if old := c.seen.probes[key]; old != nil {
		next = *old
	}
	c.seen.mu.Unlock()
	body, err := c.getAdmin(ctx, addr, "/readyz")
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	was := next.ok
	// One late answer is a busy machine. A refused connection is a process that is gone.
	if slow := isTimeout(err); slow && was && !next.late {
		next.late = true
		c.seen.mu.Lock()
		defer c.seen.mu.Unlock()
		c.seen.probes[key] = &next
		return
	}
	next.late = false
	if next.ok = err == nil; err != nil {
		next.problem = silence(err)
		next.counts = nil // it may come back as a new process, which counts from 0
	} else {
		next.problem = ""
		var ready struct{ Checks []check }
		if json.Unmarshal(body, &ready) == nil {
			next.checks = ready.Checks
		}
		c.askMore(ctx, &next, key.service, addr)
	}
	if next.since.IsZero() || was != next.ok {
		next.since = time.Now().UTC()
	}
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	c.seen.probes[key] = &next
}

func (c *Console) askMore(ctx context.Context, next *probe, service, addr string) {
	next.round++
	if body, err := c.getAdmin(ctx, addr, "/balancers"); err == nil {
		var balancers map[string][]route.EndpointState
		if json.Unmarshal(body, &balancers) == nil {
			next.balancers = balancers
		}
	}
	if service == "gateway" {
		c.addOrigins(ctx, next, addr)
	}
	if next.round%2 == 1 {
		if body, err := c.getAdmin(ctx, addr, "/metrics"); err == nil {
			next.read(body, time.Now())
		}
	}
}

// addOrigins adds what the edge's own balancers say, which stand in its table.
func (c *Console) addOrigins(ctx context.Context, next *probe, addr string) {
	body, err := c.getAdmin(ctx, addr, "/routes")
	var table struct {
		Origins []struct {
			Service   string
			Instances []route.EndpointState
		}
	}
	if err != nil || json.Unmarshal(body, &table) != nil {
		return
	}
	all := map[string][]route.EndpointState{}
	for service, list := range next.balancers {
		all[service] = list
	}
	for _, o := range table.Origins {
		all[o.Service] = append(all[o.Service], o.Instances...)
	}
	next.balancers = all
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// silence says in a few words why an admin page does not answer.
func silence(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens at its address"
	case isTimeout(err):
		return "it does not answer within " + probeLimit.String()
	case errors.Is(err, syscall.ECONNRESET), strings.Contains(err.Error(), "EOF"):
		return "it broke the connection off"
	default:
		return err.Error()
	}
}

// read takes the figures that the page shows from a page of metrics.
func (p *probe) read(text []byte, now time.Time) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return
	}
	value := func(name string) float64 {
		if ms := families[name].GetMetric(); len(ms) > 0 {
			return ms[0].GetGauge().GetValue()
		}
		return 0
	}
	p.memory, p.threads, p.revision = value("process_resident_memory_bytes"), value("go_goroutines"), value("bijou_config_revision")
	now0 := counts{at: now, buckets: map[float64]float64{}}
	if f := families["bijou_gateway_request_seconds"]; f != nil {
		for _, m := range f.GetMetric() {
			now0.add(m)
		}
		now0.total = 0 // the edge's own count has requests without a route, too
		for _, m := range families["bijou_gateway_requests_total"].GetMetric() {
			now0.total += m.GetCounter().GetValue()
			if label(m, "class") == "5xx" {
				now0.failed += m.GetCounter().GetValue()
			}
		}
	} else {
		for _, m := range families["bijou_rpc_server_seconds"].GetMetric() {
			if asked(label(m, "method")) {
				now0.add(m)
				if failures[label(m, "code")] {
					now0.failed += float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	if n := len(p.counts); n > 0 && now0.total < p.counts[n-1].total {
		p.counts = nil // a new process
	}
	p.counts = append(slices.Clone(p.counts), now0)
	for len(p.counts) > 2 && now.Sub(p.counts[0].at) > window {
		p.counts = p.counts[1:]
	}
}

func (n *counts) add(m *dto.Metric) {
	h := m.GetHistogram()
	n.total += float64(h.GetSampleCount())
	for _, b := range h.GetBucket() {
		n.buckets[b.GetUpperBound()] += float64(b.GetCumulativeCount())
	}
}

// asked leaves out what lasts as long as two processes live, and what only asks whether one lives.
func asked(method string) bool {
	return !strings.HasPrefix(method, "grpc.") && !strings.HasSuffix(method, "/Watch") && !strings.HasSuffix(method, "/Register") && !strings.HasSuffix(method, "/Report")
}

// failures are the codes that count against a server, as platform/rpc has it for spans.
var failures = map[string]bool{
	"Unknown": true, "DeadlineExceeded": true, "Unimplemented": true, "Internal": true, "Unavailable": true, "DataLoss": true,
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
