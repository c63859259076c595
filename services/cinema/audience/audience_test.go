package audience_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/audience"
)

// cinema is a target on an in-memory network. It records the requests.
type cinema struct {
	net *memnet.Network

	mu       sync.Mutex
	requests []received
}

// received is a request as the target received it.
type received struct {
	at                 time.Time
	method, path, body string
}

// open serves until the test ends. If answer is nil, each response is a home page with one film.
func open(t *testing.T, answer http.HandlerFunc) *cinema {
	t.Helper()
	if answer == nil {
		answer = writeHome
	}
	c := &cinema{net: memnet.New()}
	l, err := c.net.Listen("tcp", "cinema:80")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // an error means that the client has given up
		c.mu.Lock()
		c.requests = append(c.requests, received{time.Now(), r.Method, r.URL.Path, string(body)})
		c.mu.Unlock()
		answer(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Shutdown(context.Background()); <-done }) // waits for handlers
	return c
}

// homes returns the times at which home pages were requested.
func (c *cinema) homes() (at []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.requests {
		if r.path == "/api/home" {
			at = append(at, r.at)
		}
	}
	return at
}

func writeHome(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"rows": [{"cards": [{"id": "f", "name": "Film"}]}]}`)
}

// newLoad returns a load on a cinema, with a fixed seed.
func newLoad(t *testing.T, c *cinema, o audience.LoadOptions) *audience.Load {
	t.Helper()
	o.Target, o.Seed, o.DialContext = cmp.Or(o.Target, "http://cinema:80"), cmp.Or(o.Seed, 1), c.net.DialContext
	l, err := audience.NewLoad(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func load(t *testing.T, c *cinema, settings map[string]string, rate float64) *audience.Load {
	t.Helper()
	return newLoad(t, c, audience.LoadOptions{Rate: rate, Settings: config.Static(settings)})
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

// op returns the numbers of one kind of request.
func op(t *testing.T, s audience.Summary, name string) audience.Op {
	t.Helper()
	for _, o := range s.Ops {
		if o.Name == name {
			return o
		}
	}
	t.Fatalf("the summary has no requests %q:\n%s", name, s)
	return audience.Op{}
}

// The number of arrivals is right, and the standard deviation of the gaps is their mean.
func TestArrivalsAreAPoissonProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		s := run(t, load(t, c, map[string]string{"audience.think": "10ms"}, 10), 200*time.Second)
		const want = 2000
		if math.Abs(float64(s.Started-want)) > 4*math.Sqrt(want) || s.Dropped != 0 || s.Success() != 1 {
			t.Errorf("%d sessions, want about %d; %d dropped, success %v", s.Started, want, s.Dropped, s.Success())
		}
		at := c.homes()
		var sum, squares float64
		for i := 1; i < len(at); i++ {
			gap := at[i].Sub(at[i-1]).Seconds()
			sum += gap
			squares += gap * gap
		}
		n := float64(len(at) - 1)
		mean := sum / n
		if spread := math.Sqrt(squares/n-mean*mean) / mean; spread < 0.9 || spread > 1.1 {
			t.Errorf("deviation of the gaps is %.2f of their mean, want about 1", spread)
		}
	})
}

// assertRamp checks that a quarter of the arrivals of a ramp come in its first half.
func assertRamp(t *testing.T, arrivals []time.Time, half time.Time) {
	t.Helper()
	early := 0
	for _, at := range arrivals {
		if at.Before(half) {
			early++
		}
	}
	if share := float64(early) / float64(len(arrivals)); math.Abs(share-0.25) > 0.06 {
		t.Errorf("%d of %d arrivals are in the first half of the ramp, want a quarter", early, len(arrivals))
	}
}

func TestRampIsLinear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		begin := time.Now()
		run(t, load(t, c, map[string]string{"audience.ramp": "100s"}, 20), 100*time.Second)
		assertRamp(t, c.homes(), begin.Add(50*time.Second))
		if n := len(c.homes()); math.Abs(float64(n)-1000) > 130 {
			t.Errorf("%d arrivals, want about 1000", n)
		}
	})
}

func TestRateChangesWhileTheLoadRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		set := config.Static(map[string]string{"audience.rate": "0"})
		l := newLoad(t, c, audience.LoadOptions{Settings: set})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		time.Sleep(time.Minute)
		if n := l.Summary().Started; n != 0 {
			t.Errorf("%d sessions started at rate 0, want none", n)
		}
		if err := set.Put("audience.rate", "5"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := l.Summary().Started; n < 230 || n > 370 {
			t.Errorf("%d sessions started in a minute at rate 5, want about 300", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A stalled server shows in the latency of each request that was due, and in dropped sessions.
func TestStallsAreMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalled := time.Now().Add(10 * time.Second)
		c := open(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Until(stalled))
			writeHome(w, r)
		})
		s := run(t, load(t, c, map[string]string{
			"audience.timeout": "1m", "audience.sessions.max": "20", "audience.think": "0s",
		}, 10), 10*time.Second)
		if s.Started != 20 || s.Dropped < 50 {
			t.Errorf("%d sessions started and %d dropped of about 100, want 20 started and the rest dropped", s.Started,
				s.Dropped)
		}
		if s.All.Max < 9*time.Second || s.Success() > 0.8 {
			t.Errorf("the longest latency is %v and the success %v, want about 10s and at most 0.8", s.All.Max, s.Success())
		}
		// Later steps of those sessions were due long before they could be sent.
		if p50 := op(t, s, "title").P50; p50 < 5*time.Second {
			t.Errorf("half of the pages of films took at most %v since they were due, want more than 5s", p50)
		}
	})
}

func TestWrongResponsesAreFailures(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"status 503":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"empty home":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"rows": []}`)) },
		"no response": func(http.ResponseWriter, *http.Request) { time.Sleep(10 * time.Second) },
		"not JSON":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := run(t, load(t, open(t, answer), nil, 5), 10*time.Second)
				if o := op(t, s, "home"); o.Failed == 0 || o.Failed != o.Requests {
					t.Errorf("%d of %d home pages failed, want all", o.Failed, o.Requests)
				}
				if s.Success() > 0.6 {
					t.Errorf("the success is %v, want at most 0.6", s.Success())
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
			writeHome(w, r)
		})
		reg := prometheus.NewRegistry()
		s := run(t, newLoad(t, c, audience.LoadOptions{Rate: 5, Metrics: reg}), 25*time.Second)
		for _, want := range []string{"home", "title", "all", "p99", "100.000 % succeeded"} {
			if !strings.Contains(s.String(), want) {
				t.Errorf("the table lacks %q:\n%s", want, s)
			}
		}
		if p95 := op(t, s, "home").P95; p95 > 25*time.Millisecond {
			t.Errorf("95 %% of the home pages took at most %v, want 20ms: creating the profile is not part of it", p95)
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
		// The gauges cover the last ten seconds.
		if p50 := got["cinema_audience_latency_seconds 0.5"]; p50 < 0.019 || p50 > 0.022 {
			t.Errorf("the exported median is %v, want 20ms", p50)
		}
		homes := op(t, s, "home").Requests
		if n := got["cinema_audience_request_seconds home"]; int(n) != homes || n == 0 {
			t.Errorf("the histogram has %v home pages, want %d", n, homes)
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

// runOnce runs the audience as its command does with -once, and returns what it prints.
func runOnce(t *testing.T, c *cinema, o audience.Options) (string, error) {
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

func TestOncePrintsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Millisecond)
			writeHome(w, r)
		})
		begin := time.Now()
		out, err := runOnce(t, c, audience.Options{Rate: 20, Ramp: time.Minute, Duration: time.Minute, JSON: true})
		if err != nil {
			t.Fatal(err)
		}
		type numbers struct {
			Name                       string
			Count, Failed              int
			P50Ns, P95Ns, P99Ns, MaxNs int64
		}
		var got struct {
			Success                     float64
			Sessions, Dropped, Degraded int
			All                         numbers
			Requests                    []numbers
		}
		dec := json.NewDecoder(strings.NewReader(out))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&got); err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
		if got.Success != 1 || got.Sessions == 0 || got.Dropped != 0 || len(got.Requests) < 5 {
			t.Errorf("want success 1, sessions, none dropped, and at least 5 kinds of requests:\n%s", out)
		}
		count := 0
		for _, r := range got.Requests {
			count += r.Count
			if r.P50Ns <= 0 || r.P50Ns > r.P95Ns || r.P95Ns > r.P99Ns || r.P99Ns > r.MaxNs {
				t.Errorf("the latencies of %s are not in order: %+v", r.Name, r)
			}
		}
		if got.All.Count != count || got.All.Failed != 0 {
			t.Errorf("all is %+v, want the sum of the kinds, %d, and none failed", got.All, count)
		}
		assertRamp(t, c.homes(), begin.Add(30*time.Second))
	})
}

func TestOnceFailsBelowTheThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
		out, err := runOnce(t, c, audience.Options{Rate: 5, Duration: 10 * time.Second})
		const want = "0.000 % of the requests succeeded, 99.000 % are required"
		if !errors.Is(err, errs.Precondition) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want Precondition with %q", err, want)
		}
		if !strings.Contains(out, "home") {
			t.Errorf("the table was not printed: %s", out)
		}
	})
}

// The requests of a session are those that web documents, in a sensible order.
func TestRequestsOfASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		run(t, load(t, c, nil, 5), 2*time.Minute)
		type fields map[string]any
		shapes := map[string]fields{ // method and path without the session -> fields of the body
			"GET /api/home": nil, "GET /api/titles/f": nil, "GET /api/search": nil,
			"POST /api/profiles":           {"id": "", "name": "", "household": ""},
			"POST /api/playback":           {"session": "", "profile": "", "title": ""},
			"POST /api/playback/heartbeat": {"sequence": 0., "position": 0.},
			"POST /api/playback/stop":      {"sequence": 0., "position": 0.},
			"PUT /api/ratings":             {"key": "", "profile": "", "title": "", "stars": 0.},
		}
		session := regexp.MustCompile(`/a-[0-9a-f]{16}`)
		seen := map[string]int{}
		sequence := map[string]float64{} // path of a session -> last number
		stopped := map[string]bool{}
		for _, r := range c.requests {
			kind := r.method + " " + session.ReplaceAllString(r.path, "")
			want, ok := shapes[kind]
			if !ok {
				t.Fatalf("unexpected request %s %s", r.method, r.path)
			}
			if seen[kind]++; want == nil {
				if r.body != "" {
					t.Errorf("%s has the body %q, want none", kind, r.body)
				}
				continue
			}
			var got fields
			if err := json.Unmarshal([]byte(r.body), &got); err != nil {
				t.Fatalf("%s: %v: %s", kind, err, r.body)
			}
			if diff := gocmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
				t.Errorf("%s: fields (-want +got):\n%s", kind, diff)
			}
			if stars, ok := got["stars"].(float64); ok && (stars < 1 || stars > 5) {
				t.Errorf("a rating has %v stars, want 1 to 5", stars)
			}
			if n, ok := got["sequence"].(float64); ok {
				of := strings.TrimSuffix(strings.TrimSuffix(r.path, "/heartbeat"), "/stop")
				if n != sequence[of]+1 || stopped[of] {
					t.Errorf("%s has sequence %v after %v, stopped before: %t", r.path, n, sequence[of], stopped[of])
				}
				sequence[of], stopped[of] = n, strings.HasSuffix(r.path, "/stop")
			}
		}
		for kind := range shapes {
			if seen[kind] == 0 {
				t.Errorf("no request %s in %d requests", kind, len(c.requests))
			}
		}
		if n := seen["POST /api/profiles"]; n > 40 {
			t.Errorf("%d profiles were created, want each of the 40 once", n)
		}
	})
}

func TestSeedMakesTheLoadRepeatable(t *testing.T) {
	record := func(seed uint64) (out []string) {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, nil)
			begin := time.Now()
			run(t, newLoad(t, c, audience.LoadOptions{Rate: 2, Seed: seed}), 20*time.Second)
			for _, r := range c.requests {
				out = append(out, fmt.Sprint(r.at.Sub(begin), r.method, r.path, r.body))
			}
		})
		slices.Sort(out)
		return out
	}
	first := record(7)
	if diff := gocmp.Diff(first, record(7)); diff != "" {
		t.Errorf("two runs with one seed differ (-first +second):\n%s", diff)
	}
	if slices.Equal(first, record(8)) {
		t.Error("runs with two seeds are equal")
	}
}

func TestFallbacksAreCountedAndAreNoFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"rows":[{"cards":[{"id":"f","name":"F"}]}],"degraded":["ratings"]}`)
		})
		s := run(t, load(t, c, nil, 5), 30*time.Second)
		if homes := op(t, s, "home").Requests; s.Degraded != homes || homes == 0 {
			t.Errorf("%d of %d home pages are degraded, want all", s.Degraded, homes)
		}
		if s.Success() != 1 {
			t.Errorf("the success is %v, want 1", s.Success())
		}
	})
}

// When the load ends, running sessions have 30 s to finish. Then they are cancelled.
func TestRunEndsThoughTheServerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		begin := time.Now()
		s := run(t, load(t, c, map[string]string{"audience.timeout": "5m"}, 5), 10*time.Second)
		if took := time.Since(begin); took < 39*time.Second || took > 41*time.Second {
			t.Errorf("Run took %v, want 10s of load and 30s for sessions", took)
		}
		if s.Success() != 0 {
			t.Errorf("the success is %v, want 0", s.Success())
		}
	})
}

// The sessions in progress do not hold up the stop of the process, which gives all background work 5 s.
func TestStopOfTheProcessEndsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(4 * time.Second)
			writeHome(w, nil)
		})
		p, err := service.New(t.Context(), service.Options{
			Name: "audience", Net: service.Net{Listen: c.net.Listen, DialContext: c.net.DialContext}, StateDir: t.TempDir(),
			Listen: map[string]string{"grpc": "audience:7000", "admin": "audience:9090"}, Drain: time.Second,
		}, func(ctx context.Context, setup *service.Setup) error {
			return audience.New(ctx, setup, audience.Options{Target: "http://cinema:80", Rate: 5})
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, stop)
		if err := p.Run(ctx); err != nil {
			t.Errorf("the process stopped with %v, want no error", err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.requests) == 0 {
			t.Error("the cinema got no requests, want some in progress")
		}
	})
}

// A server that cannot be reached makes failures, not errors of Run.
func TestUnreachableTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		s := run(t, newLoad(t, c, audience.LoadOptions{Target: "http://other:80", Rate: 5}), 10*time.Second)
		if s.Started == 0 || s.Success() != 0 || len(c.requests) != 0 {
			t.Errorf("%d sessions with success %v and %d requests received; want sessions, 0 and 0", s.Started, s.Success(),
				len(c.requests))
		}
	})
}

func TestTargetMayEndWithASlash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		run(t, newLoad(t, c, audience.LoadOptions{Target: "http://cinema:80/", Rate: 5}), 10*time.Second)
		if len(c.homes()) == 0 {
			t.Errorf("no request for /api/home in %d requests", len(c.requests))
		}
	})
}

// A line with the numbers of the last ten seconds is logged every ten seconds.
func TestProgressIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		c := open(t, nil)
		log := slog.New(slog.NewJSONHandler(&out, nil))
		s := run(t, newLoad(t, c, audience.LoadOptions{Rate: 5, Log: log}), 35*time.Second)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 3 {
			t.Fatalf("%d lines in 35s, want 3:\n%s", len(lines), out.String())
		}
		sessions := 0
		for _, line := range lines {
			var got struct {
				Sessions, Dropped, Requests int
				OK                          string `json:"ok_percent"`
			}
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if got.Sessions == 0 || got.Requests < got.Sessions || got.OK != "100.000" || got.Dropped != 0 {
				t.Errorf("want sessions, at least as many requests, none dropped and 100.000 %%: %s", line)
			}
			sessions += got.Sessions
		}
		if sessions >= s.Started {
			t.Errorf("the lines have %d sessions, want less than all %d: the last five seconds have no line", sessions,
				s.Started)
		}
	})
}

func TestSummaryWithoutRequests(t *testing.T) {
	var s audience.Summary
	if s.Success() != 1 {
		t.Errorf("the success without requests is %v, want 1", s.Success())
	}
	s.Dropped = 1
	if s.Success() != 0 {
		t.Errorf("the success with one dropped session is %v, want 0", s.Success())
	}
	if !strings.Contains(s.String(), "1 dropped") {
		t.Errorf("the table does not say that a session was dropped:\n%s", s)
	}
}

func TestMetricsAreRegisteredOnce(t *testing.T) {
	o := audience.LoadOptions{Target: "http://cinema:80", Metrics: prometheus.NewRegistry()}
	if _, err := audience.NewLoad(o); err != nil {
		t.Fatal(err)
	}
	if _, err := audience.NewLoad(o); err == nil || !strings.Contains(err.Error(), "registering metrics") {
		t.Errorf("a second load with one registry: got %v, want an error of registering metrics", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		options audience.Options
		field   string
	}{
		"target without a scheme":     {audience.Options{Target: "cinema"}, "Target"},
		"target that is a file":       {audience.Options{Target: "file:///etc/passwd"}, "Target"},
		"target without a host":       {audience.Options{Target: "http://"}, "Target"},
		"target that is no URL":       {audience.Options{Target: "http://a b"}, "Target"},
		"negative duration":           {audience.Options{Duration: -1}, "Duration"},
		"rate above the limit":        {audience.Options{Rate: 10_001}, "Rate"},
		"negative rate":               {audience.Options{Rate: -1}, "Rate"},
		"rate that is no number":      {audience.Options{Rate: math.NaN()}, "Rate"},
		"negative ramp":               {audience.Options{Ramp: -1}, "Ramp"},
		"ramp of more than a day":     {audience.Options{Ramp: 25 * time.Hour}, "Ramp"},
		"threshold above 1":           {audience.Options{Threshold: 2}, "Threshold"},
		"negative threshold":          {audience.Options{Threshold: -0.5}, "Threshold"},
		"threshold that is no number": {audience.Options{Threshold: math.NaN()}, "Threshold"},
	} {
		err := audience.New(t.Context(), nil, c.options)
		if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: got %v, want Invalid that names %s", name, err, c.field)
		}
	}
	if _, err := audience.NewLoad(audience.LoadOptions{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a load without a target: got %v, want Invalid", err)
	}
}
