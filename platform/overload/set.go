package overload

import (
	"cmp"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/httpapi"

	"github.com/prometheus/client_golang/prometheus"
)

// Options configures a Set. The zero value is ready.
type Options struct {
	// Config holds the live settings. Nil: the defaults of each setting.
	Config config.Set
	// Metrics gets bijou_overload_*. Nil: there are no metrics.
	Metrics prometheus.Registerer
}

// Set holds the limiters of one process, which share their settings. Its methods may be called at the same time. Make
// one with New.
type Set struct {
	knobs *knobs
	mu    sync.Mutex
	all   map[string]*Limiter
}

// knobs are the live settings.
type knobs struct {
	enabled                          *config.Value[bool]
	initial, min, max                *config.Value[int64]
	tolerance, shedFrom, shedAll     *config.Value[float64]
	floor, window, probe, retryAfter *config.Value[time.Duration]
}

// New returns an empty Set and declares its settings.
func New(o Options) *Set {
	if o.Config == nil {
		o.Config = config.Static(nil)
	}
	c := o.Config
	s := &Set{all: map[string]*Limiter{}, knobs: &knobs{
		enabled: config.Bool(c, "overload.enabled", true, config.Spec{
			Doc: "Whether requests are shed when there are too many. If not, they are still counted.",
		}),
		initial: config.Int(c, "overload.limit.initial", 100, config.Spec{
			Doc: "How many requests a server works on at once before it has measured. It is read when the server starts.",
			Min: "1", Max: "100000",
		}),
		min: config.Int(c, "overload.limit.min", 50, config.Spec{
			Doc: "The lowest limit.", Min: "1", Max: "100000",
		}),
		max: config.Int(c, "overload.limit.max", 1000, config.Spec{
			Doc: "The highest limit. The lowest wins over it.", Min: "1", Max: "100000",
		}),
		tolerance: config.Float(c, "overload.tolerance", 2, config.Spec{
			Doc: "How many times as long as without a queue requests may take before the limit is lowered.",
			Min: "1", Max: "100",
		}),
		floor: config.Duration(c, "overload.floor", 20*time.Millisecond, config.Spec{
			Doc: "Requests that take less time without a queue count as if they took as long as this.",
			Min: "0s", Max: "1m",
		}),
		window: config.Duration(c, "overload.window", 500*time.Millisecond, config.Spec{
			Doc: "How often the limit is set at most.", Min: "10ms", Max: "1m",
		}),
		probe: config.Duration(c, "overload.probe", 15*time.Second, config.Spec{
			Doc: "How often the time without a queue is measured again during an overload. 0s: never.",
			Min: "0s", Max: "1h",
		}),
		shedFrom: config.Float(c, "overload.shedFrom", 0.5, config.Spec{
			Doc: "The share of the limit in use from which on sheddable requests are shed.", Min: "0", Max: "1",
		}),
		shedAll: config.Float(c, "overload.shedAll", 0.75, config.Spec{
			Doc: "The share of the limit in use at which all sheddable requests are shed; the rest is for critical ones.",
			Min: "0", Max: "1",
		}),
		retryAfter: config.Duration(c, "overload.retryAfter", time.Second, config.Spec{
			Doc: "How long the callers of shed requests are asked to wait, plus or minus half of it at random.",
			Min: "1ms", Max: "1h",
		}),
	}}
	if o.Metrics != nil {
		o.Metrics.MustRegister(s)
	}
	return s
}

// Limiter returns the limiter called name, and creates it if there is none.
func (s *Set) Limiter(name string) *Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[name] == nil {
		s.all[name] = newLimiter(name, s.knobs)
	}
	return s.all[name]
}

// Remove removes the limiter called name from the set, its metrics and its page. A caller that has the limiter may
// still use it.
func (s *Set) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, name)
}

// limiters returns all of them in the order of their names.
func (s *Set) limiters() []*Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.all), func(a, b *Limiter) int { return cmp.Compare(a.name, b.name) })
}

var (
	limitDesc    = describe("limit", "How many requests may be in flight now.")
	inFlightDesc = describe("in_flight", "Requests in flight.")
	admittedDesc = describe("admitted_total", "Requests that were admitted, by criticality.", "criticality")
	shedDesc     = describe("shed_total",
		"Requests that were refused for overload, by criticality.", "criticality")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("bijou_overload_"+name, help, append([]string{"limiter"}, labels...), nil)
}

var _ prometheus.Collector = (*Set)(nil)

// Describe implements prometheus.Collector.
func (s *Set) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{limitDesc, inFlightDesc, admittedDesc, shedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Set) Collect(ch chan<- prometheus.Metric) {
	for _, l := range s.limiters() {
		ch <- prometheus.MustNewConstMetric(limitDesc, prometheus.GaugeValue, l.Limit(), l.name)
		ch <- prometheus.MustNewConstMetric(inFlightDesc, prometheus.GaugeValue, float64(l.inFlight.Load()), l.name)
		for c := range Criticality(classes) {
			admitted, shed := float64(l.admitted[c].Load()), float64(l.shed[c].Load())
			ch <- prometheus.MustNewConstMetric(admittedDesc, prometheus.CounterValue, admitted, l.name, c.String())
			ch <- prometheus.MustNewConstMetric(shedDesc, prometheus.CounterValue, shed, l.name, c.String())
		}
	}
}

// State is a snapshot of a limiter.
type State struct {
	// Name is the name of the limiter.
	Name string `json:"name"`
	// Limit is how many requests may be in flight now.
	Limit float64 `json:"limit"`
	// Why is the reason of the last change of the limit.
	Why string `json:"why"`
	// InFlight is how many requests are in flight now.
	InFlight int64 `json:"inFlight"`
	// Slowdown is how many times as long as without a queue requests took in the last window.
	Slowdown float64 `json:"slowdown"`
	// Probing says that the time without a queue is being measured.
	Probing bool `json:"probing"`
	// Admitted and Shed count requests since the start, by criticality. Those with none are left out.
	Admitted map[string]uint64 `json:"admitted"`
	Shed     map[string]uint64 `json:"shed"`
	// BaselineMS is the time without a queue, in milliseconds, by kind of request.
	BaselineMS map[string]float64 `json:"baselineMs"`
}

// State returns a snapshot of the limiter.
func (l *Limiter) State() State {
	st := State{
		Name: l.name, Limit: math.Round(10*l.Limit()) / 10, InFlight: l.inFlight.Load(), Probing: l.probing.Load(),
		Admitted: map[string]uint64{}, Shed: map[string]uint64{}, BaselineMS: map[string]float64{},
	}
	for c := range Criticality(classes) {
		if n := l.admitted[c].Load(); n > 0 {
			st.Admitted[c.String()] = n
		}
		if n := l.shed[c].Load(); n > 0 {
			st.Shed[c.String()] = n
		}
	}
	for name, k := range *l.kinds.Load() {
		if base := k.base.Load(); base > 0 {
			st.BaselineMS[name] = float64(base) / float64(time.Millisecond)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	st.Why, st.Slowdown = l.why, math.Round(100*l.slowdown)/100
	return st
}

// Handler serves the state of all limiters as JSON.
func (s *Set) Handler() http.Handler {
	type page struct {
		Limiters []State `json:"limiters"`
	}
	return httpapi.Get(func(*http.Request) (page, error) {
		p := page{[]State{}}
		for _, l := range s.limiters() {
			p.Limiters = append(p.Limiters, l.State())
		}
		return p, nil
	})
}
