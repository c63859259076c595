package audience_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/audience"
)

// cinema is a target on an in-memory network that notes when home pages were asked for.
type cinema struct {
	net *memnet.Network
	mu  sync.Mutex
	at  []time.Time
}

// open serves until the test ends; answer may be nil.
func open(t *testing.T, answer http.HandlerFunc) *cinema {
	t.Helper()
	c := &cinema{net: memnet.New()}
	l, err := c.net.Listen("tcp", "cinema:80")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/home" {
			c.mu.Lock()
			c.at = append(c.at, time.Now())
			c.mu.Unlock()
		}
		if answer != nil {
			answer(w, r)
			return
		}
		good(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Shutdown(context.Background()); <-done }) // waits for handlers
	return c
}

func good(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(map[string]any{"rows": []any{map[string]any{"cards": []any{map[string]string{
		"id":   "f",
		"name": "Film",
	}}}}})
}

func load(t *testing.T, c *cinema, settings map[string]string, rate float64) *audience.Load {
	t.Helper()
	l, err := audience.NewLoad(audience.LoadOptions{
		Target: "http://cinema:80", Rate: rate, Seed: 1, DialContext: c.net.DialContext, Settings: config.Static(settings),
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func run(t *testing.T, l *audience.Load, d time.Duration) audience.Summary {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return l.Summary()
}

// Arrivals of a Poisson process: the right number, and gaps whose deviation equals their mean.
func TestArrivalsAreAPoissonProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		s := run(t, load(t, c, map[string]string{"audience.think": "10ms"}, 10), 200*time.Second)
		const want = 2000
		if math.Abs(float64(s.Started-want)) > 4*math.Sqrt(want) || s.Dropped != 0 || s.Success() != 1 {
			t.Errorf("%d sessions, want about %d; %d dropped, success %v", s.Started, want, s.Dropped, s.Success())
		}
		var sum, squares float64
		for i := 1; i < len(c.at); i++ {
			gap := c.at[i].Sub(c.at[i-1]).Seconds()
			sum += gap
			squares += gap * gap
		}
		n := float64(len(c.at) - 1)
		mean := sum / n
		if spread := math.Sqrt(squares/n-mean*mean) / mean; spread < 0.9 || spread > 1.1 {
			t.Errorf("deviation of the gaps is %.2f of their mean, want about 1", spread)
		}
	})
}

func TestRampIsAStraightLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		begin := time.Now()
		run(t, load(t, c, map[string]string{"audience.ramp": "100s"}, 20), 100*time.Second)
		early := 0
		for _, at := range c.at {
			if at.Sub(begin) < 50*time.Second {
				early++
			}
		}
		// A quarter of the arrivals of a ramp come in its first half.
		if share := float64(early) / float64(len(c.at)); math.Abs(share-0.25) > 0.05 ||
			math.Abs(float64(len(c.at))-1000) > 130 {
			t.Errorf("%d of %d arrivals in the first half", early, len(c.at))
		}
	})
}

func TestRateIsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		set := config.Static(map[string]string{"audience.rate": "0"})
		l, err := audience.NewLoad(audience.LoadOptions{
			Target: "http://cinema:80", Seed: 1, DialContext: c.net.DialContext,
			Settings: set,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		time.Sleep(time.Minute)
		if n := l.Summary().Started; n != 0 {
			t.Errorf("%d sessions at rate 0", n)
		}
		if err := set.Put("audience.rate", "5"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := l.Summary().Started; n < 230 || n > 370 {
			t.Errorf("%d sessions in a minute at rate 5", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A stalled server must show in the latencies of everybody who was due, and in dropped sessions.
func TestNothingIsHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalled := time.Now().Add(10 * time.Second)
		c := open(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Until(stalled))
			good(w, r)
		})
		s := run(t, load(t, c, map[string]string{
			"audience.timeout": "1m", "audience.sessions.max": "20",
			"audience.think": "0s",
		}, 10), 10*time.Second)
		if s.Started != 20 || s.Dropped < 50 {
			t.Errorf("%d started and %d dropped of about 100, limit 20", s.Started, s.Dropped)
		}
		if s.All.Max < 9*time.Second || s.Success() > 0.8 {
			t.Errorf("max %v, success %v", s.All.Max, s.Success())
		}
		// Later steps of those sessions were due long before they could be sent.
		for _, o := range s.Ops {
			if o.Name == "title" && o.P50 < 5*time.Second {
				t.Errorf("title pages were due with home and count %v", o.P50)
			}
		}
	})
}

func TestFailuresCount(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"errors":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"empty home": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"rows": []}`)) },
		"no answer":  func(http.ResponseWriter, *http.Request) { time.Sleep(10 * time.Second) },
		"not JSON":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := run(t, load(t, open(t, answer), nil, 5), 10*time.Second)
				for _, o := range s.Ops {
					if o.Name == "home" && (o.Failed == 0 || o.Failed != o.Requests) {
						t.Errorf("%d of %d failed", o.Failed, o.Requests)
					}
				}
				if s.Success() > 0.6 {
					t.Errorf("success %v", s.Success())
				}
			})
		})
	}
}

func TestTableAndMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(20 * time.Millisecond)
			if r.URL.Path == "/api/profiles" {
				time.Sleep(100 * time.Millisecond)
			}
			good(w, r)
		})
		reg := prometheus.NewRegistry()
		l, err := audience.NewLoad(audience.LoadOptions{
			Target: "http://cinema:80", Rate: 5, Seed: 1,
			DialContext: c.net.DialContext, Metrics: reg,
		})
		if err != nil {
			t.Fatal(err)
		}
		s := run(t, l, 25*time.Second)
		for _, want := range []string{"home", "title", "all", "p99", "100.000 % succeeded"} {
			if !strings.Contains(s.String(), want) {
				t.Errorf("the table lacks %q:\n%s", want, s)
			}
		}
		for _, o := range s.Ops {
			if o.Name == "home" && o.P95 > 25*time.Millisecond {
				t.Errorf("home takes 20ms and counts %v: joining is a step of its own", o.P95)
			}
		}
		got := gather(t, reg)
		for name, want := range map[string]float64{
			"cinema_audience_sessions_total started": float64(s.Started),
			"cinema_audience_success_ratio":          1,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
		// The gauges are of the last ten seconds, so they agree with the sum roughly.
		if p50 := got["cinema_audience_latency_seconds 0.5"]; p50 < 0.019 || p50 > 0.022 {
			t.Errorf("the exported median is %v, want 20ms", p50)
		}
		homes := 0
		for _, o := range s.Ops {
			homes += map[bool]int{true: o.Requests}[o.Name == "home"]
		}
		if n := got["cinema_audience_request_seconds home"]; int(n) != homes || n == 0 {
			t.Errorf("the histogram has %v homes, want %d", n, homes)
		}
	})
}

// gather returns the exported numbers by name and label values; of a histogram, how many it has counted.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// comeOnce runs the audience as its command does and returns what it prints.
func comeOnce(t *testing.T, c *cinema, o audience.Options) (string, error) {
	t.Helper()
	var out strings.Builder
	ctx, cancel := context.WithCancel(t.Context())
	o.Target, o.Once, o.Out, o.Done = "http://cinema:80", true, &out, cancel
	p, err := service.New(ctx, service.Options{
		Name: "audience", Net: service.Net{Listen: c.net.Listen, DialContext: c.net.DialContext},
	}, func(ctx context.Context, setup *service.Setup) error { return audience.New(ctx, setup, o) })
	if err != nil {
		t.Fatal(err)
	}
	err = p.Run(ctx)
	return out.String(), err
}

func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		begin := time.Now()
		out, err := comeOnce(t, c, audience.Options{Rate: 20, Ramp: time.Minute, Duration: time.Minute, JSON: true})
		if err != nil {
			t.Fatal(err)
		}
		var sum struct {
			Success  float64
			Sessions int
			Requests []struct {
				Name  string
				Count int
				P99   time.Duration `json:"p99_ns"`
			}
		}
		if err := json.Unmarshal([]byte(out), &sum); err != nil || sum.Success != 1 || len(sum.Requests) < 5 {
			t.Fatalf("%v:\n%s", err, out)
		}
		early := 0
		for _, at := range c.at {
			if at.Sub(begin) < 30*time.Second {
				early++
			}
		}
		if share := float64(early) / float64(len(c.at)); math.Abs(share-0.25) > 0.06 {
			t.Errorf("%d of %d came in the first half of a ramp, want a quarter", early, len(c.at))
		}
	})
}

func TestOnceFailsBelowTheThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
		out, err := comeOnce(t, c, audience.Options{Rate: 5, Duration: 10 * time.Second})
		if !errors.Is(err, errs.Precondition) || !strings.Contains(err.Error(),
			"0.000 % of the requests succeeded, 99.000 % are required") ||
			!strings.Contains(out, "home") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for field, o := range map[string]audience.Options{
		"Target": {Target: "cinema"}, "Duration": {Duration: -1}, "Rate": {Rate: 1e9},
		"Ramp": {Ramp: -1}, "Threshold": {Threshold: 2},
	} {
		if err := audience.New(t.Context(), nil, o); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
