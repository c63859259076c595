package audience

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Summary has the numbers of an interval.
type Summary struct {
	// Started and Dropped count sessions.
	Started int `json:"sessions"`
	Dropped int `json:"dropped"`
	// Degraded counts home pages with parts that were replaced by fallbacks. They count as successes.
	Degraded int `json:"degraded"`
	// All covers every request.
	All Op `json:"all"`
	// Ops covers the requests of each kind, by name.
	Ops []Op `json:"requests"`
}

// Op has the numbers of one kind of request. Latencies are measured from the time at which a request was due. Their
// error is at most 2 %.
type Op struct {
	Name     string        `json:"name"`
	Requests int           `json:"count"`
	Failed   int           `json:"failed"`
	P50      time.Duration `json:"p50Ns"`
	P95      time.Duration `json:"p95Ns"`
	P99      time.Duration `json:"p99Ns"`
	Max      time.Duration `json:"maxNs"`
}

// Success returns the share of requests that succeeded, 0 to 1. A dropped session counts as one failed request. Without
// requests it is 1.
func (s Summary) Success() float64 {
	n := s.All.Requests + s.Dropped
	if n == 0 {
		return 1
	}
	return float64(s.All.Requests-s.All.Failed) / float64(n)
}

// print writes the table for people, or a JSON object for programs.
func (s Summary) print(w io.Writer, asJSON bool) error {
	if !asJSON {
		_, err := io.WriteString(w, s.String())
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Success float64 `json:"success"`
		Summary
	}{s.Success(), s})
}

// String returns the table for people.
func (s Summary) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "request\tcount\tfailed\tp50\tp95\tp99\tmax\t")
	for _, o := range append(slices.Clone(s.Ops), s.All) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%v\t%v\t%v\t%v\t\n", o.Name, o.Requests, o.Failed, short(o.P50), short(o.P95),
			short(o.P99), short(o.Max))
	}
	_ = w.Flush() // writing to a Builder does not fail
	fmt.Fprintf(&b, "%d sessions, %d dropped, %d home pages with a replaced part, %.3f %% succeeded\n",
		s.Started, s.Dropped, s.Degraded, 100*s.Success())
	return b.String()
}

func short(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// latencies counts durations in slots from 1 µs to 15 min. The upper bound of a slot is 2 % above the lower one.
type latencies struct {
	slots [1042]uint32
	max   time.Duration
}

var width = math.Log(1.02)

func (l *latencies) add(d time.Duration) {
	slot := 0
	if us := float64(d) / float64(time.Microsecond); us > 1 {
		slot = min(int(math.Log(us)/width), len(l.slots)-1)
	}
	l.slots[slot]++
	l.max = max(l.max, d)
}

// quantile returns the smallest duration that is at least as long as a share q of all n durations.
func (l *latencies) quantile(q float64, n int) time.Duration {
	need := uint32(math.Ceil(q * float64(n)))
	var seen uint32
	for slot, count := range l.slots {
		if seen += count; count > 0 && seen >= need {
			return min(time.Duration(math.Exp(float64(slot+1)*width)*float64(time.Microsecond)), l.max)
		}
	}
	return 0
}

// tally counts the requests of one kind.
type tally struct {
	requests, failed int
	latencies        latencies
}

func (t *tally) add(d time.Duration, ok bool) {
	t.requests++
	if !ok {
		t.failed++
	}
	t.latencies.add(d)
}

func (t *tally) op(name string) Op {
	q := func(share float64) time.Duration { return t.latencies.quantile(share, t.requests) }
	return Op{name, t.requests, t.failed, q(0.5), q(0.95), q(0.99), t.latencies.max}
}

// interval has the counts of a period.
type interval struct {
	started, dropped, degraded int
	all                        tally
	ops                        map[string]*tally
}

func (s *interval) summary() Summary {
	out := Summary{Started: s.started, Dropped: s.dropped, Degraded: s.degraded, All: s.all.op("all")}
	for name, t := range s.ops {
		out.Ops = append(out.Ops, t.op(name))
	}
	slices.SortFunc(out.Ops, func(a, b Op) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// stats counts since the start and since the last log line, and exports both as metrics.
type stats struct {
	mu     sync.Mutex
	whole  *interval
	recent *interval

	sessions *prometheus.CounterVec
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	latency  *prometheus.GaugeVec
	success  prometheus.Gauge
}

func newStats(reg prometheus.Registerer) (*stats, error) {
	s := &stats{
		whole: &interval{ops: map[string]*tally{}}, recent: &interval{ops: map[string]*tally{}},
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cinema_audience_sessions_total", Help: "Sessions by result: started or dropped.",
		}, []string{"result"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cinema_audience_requests_total", Help: "Requests by kind and result.",
		}, []string{"op", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "cinema_audience_request_seconds",
			Help:    "Latency of requests from the time they were due. It can be summed over instances.",
			Buckets: prometheus.ExponentialBucketsRange(0.001, 10, 13),
		}, []string{"op"}),
		latency: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cinema_audience_latency_seconds", Help: "Latency from the time requests were due, over the last ten seconds.",
		}, []string{"quantile"}),
		success: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "cinema_audience_success_ratio",
			Help: "Share of requests that succeeded in the last ten seconds. Dropped sessions count as failures.",
		}),
	}
	if reg == nil {
		return s, nil
	}
	for _, c := range []prometheus.Collector{s.sessions, s.requests, s.seconds, s.latency, s.success} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return s, nil
}

func (s *stats) session(result string) {
	s.sessions.WithLabelValues(result).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range []*interval{s.whole, s.recent} {
		if result == "dropped" {
			c.dropped++
		} else {
			c.started++
		}
	}
}

func (s *stats) degraded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole.degraded++
	s.recent.degraded++
}

func (s *stats) request(op string, d time.Duration, ok bool) {
	s.requests.WithLabelValues(op, map[bool]string{true: "ok", false: "failed"}[ok]).Inc()
	s.seconds.WithLabelValues(op).Observe(d.Seconds())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range []*interval{s.whole, s.recent} {
		if c.ops[op] == nil {
			c.ops[op] = &tally{}
		}
		c.ops[op].add(d, ok)
		c.all.add(d, ok)
	}
}

func (s *stats) total() Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole.summary()
}

// nextInterval returns the numbers since its last call, and exports them as metrics.
func (s *stats) nextInterval() Summary {
	s.mu.Lock()
	out := s.recent.summary()
	s.recent = &interval{ops: map[string]*tally{}}
	s.mu.Unlock()
	s.success.Set(out.Success())
	for q, d := range map[string]time.Duration{
		"0.5": out.All.P50, "0.95": out.All.P95, "0.99": out.All.P99,
		"1": out.All.Max,
	} {
		s.latency.WithLabelValues(q).Set(d.Seconds())
	}
	return out
}
