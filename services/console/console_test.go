package console_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/services/console"
)

// The services that the console asks are real in deploy/e2e. Here it is alone, or with one other process: what it does
// when nobody answers, and what it refuses.

// world is a network in memory with a console on it.
type world struct {
	net *memnet.Network
	log *bytes.Buffer
	p   *service.Process
	// known has the instances that the console knows.
	known *discovery.Static
}

func start(t *testing.T, n *memnet.Network, o service.Options, setup service.SetupFunc) (p *service.Process,
	stop func(),
) {
	t.Helper()
	o.Instance, o.Net, o.Drain = o.Name+"-1", service.Net{Listen: n.Listen, DialContext: n.DialContext}, time.Second
	p, err := service.New(t.Context(), o, setup)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stopping %s: %v", o.Name, err)
		}
	})
}

// frontEnd stands for the build of ui, which may be missing here.
var frontEnd = fstest.MapFS{
	"dist/index.html": {Data: []byte(`<!doctype html><script type="module" src="/app.js"></script>`)},
	"dist/app.js":     {Data: []byte(`document.title = "Bijou"`)},
}

func newWorld(t *testing.T, o console.Options) *world {
	t.Helper()
	w := &world{net: memnet.New(), log: &bytes.Buffer{}, known: discovery.NewStatic(nil)}
	if o.Files == nil {
		o.Files = frontEnd
	}
	var stop func()
	w.p, stop = start(t, w.net, service.Options{
		Name: "console", Known: w.known, Log: slog.New(slog.NewTextHandler(w.log, nil)),
		Listen: map[string]string{"grpc": "console:7000", "admin": "console:9090", "http": "console:8080"},
	}, func(ctx context.Context, setup *service.Setup) error { return console.New(ctx, setup, o) })
	t.Cleanup(stop)
	return w
}

// victim adds a process that the console knows.
func (w *world) victim(t *testing.T, crash func()) (stop func()) {
	t.Helper()
	_, stop = start(t, w.net, service.Options{
		Name: "catalog", Crash: crash, Listen: map[string]string{"grpc": "catalog:7000", "admin": "catalog:9090"},
	}, func(context.Context, *service.Setup) error { return nil })
	w.known.Put("catalog", []discovery.Instance{{
		ID: "catalog-1", Zone: "a",
		Endpoints: map[string]string{"admin": "catalog:9090"},
	}})
	return stop
}

func (w *world) do(t *testing.T, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://console:8080"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "localhost:8081"
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	c := http.Client{Transport: &http.Transport{
		DialContext: w.net.DialContext, DisableKeepAlives: true,
		DisableCompression: true,
	}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// events opens a stream and returns what reads the next event of a topic.
func (w *world) events(t *testing.T) (next func(topic string, into any)) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://console:8080/api/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "127.0.0.1:8081"
	c := http.Client{Transport: &http.Transport{DialContext: w.net.DialContext}}
	resp, err := c.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("opening a stream: %v %+v", err, resp)
	}
	t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func(topic string, into any) {
		t.Helper()
		asked := time.Now()
		for lines.Scan() {
			if time.Since(asked) > time.Minute {
				t.Fatalf("no event %s within a minute", topic)
			}
			if lines.Text() != "event: "+topic {
				continue
			}
			lines.Scan()
			if err := json.Unmarshal([]byte(strings.TrimPrefix(lines.Text(), "data: ")), into); err != nil {
				t.Fatalf("event %s: %v", topic, err)
			}
			return
		}
		t.Fatalf("the stream ended before an event %s: %v", topic, lines.Err())
	}
}

type fleet struct {
	LastKnown bool
	Instances []struct {
		ID    string
		Admin *struct {
			OK      bool
			Problem string
			Checks  []struct{ Name string }
		}
	}
}

func TestWithNobodyElseThereThePageSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		next := w.events(t)
		var hello struct{ ReadOnly, Built bool }
		if next("hello", &hello); hello.ReadOnly || !hello.Built {
			t.Errorf("hello: %+v", hello)
		}
		want := map[string]bool{"registry": true, "circuits": true, "settings": true, "edge": true}
		for len(want) > 0 {
			var parts map[string]struct {
				OK      bool
				Problem string
			}
			next("parts", &parts)
			for name, p := range parts {
				if p.OK || p.Problem == "" {
					t.Errorf("part %s with nobody there: %+v", name, p)
				}
				delete(want, name)
			}
		}
		if code, _, body := w.do(t, "GET", "/api/traces/services", ""); code != http.StatusServiceUnavailable ||
			!strings.Contains(body, "the trace store is away") {
			t.Errorf("traces with nobody there: %d %s", code, body)
		}
		if code, _, body := w.do(t, "GET", "/api/state/circuits", ""); code != http.StatusServiceUnavailable {
			t.Errorf("the board with nobody there: %d %s", code, body)
		}
	})
}

func TestAKilledInstanceIsShownWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		stop := w.victim(t, nil)
		next := w.events(t)
		var f fleet
		for len(f.Instances) == 0 || f.Instances[0].Admin == nil {
			next("fleet", &f)
		}
		if a := f.Instances[0].Admin; !f.LastKnown || f.Instances[0].ID != "catalog-1" || !a.OK || len(a.Checks) == 0 {
			t.Fatalf("the instance that is there: %+v", f)
		}
		stop()
		gone := time.Now()
		for f.Instances[0].Admin.OK {
			next("fleet", &f)
		}
		if took := time.Since(gone); took > 2*time.Second || f.Instances[0].Admin.Problem == "" {
			t.Errorf("shown after %v: %+v", took, f.Instances[0].Admin)
		}
		defer w.victim(t, nil)()
		for !f.Instances[0].Admin.OK {
			next("fleet", &f)
		}
	})
}

// registry answers late as often as it is told to.
type registry struct {
	discoveryv1.UnimplementedDiscoveryServer
	late atomic.Int64
}

func (r *registry) List(ctx context.Context, _ *discoveryv1.ListRequest) (*discoveryv1.ListResponse, error) {
	if r.late.Add(-1) >= 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &discoveryv1.ListResponse{}, nil
}

func TestOneLateAnswerIsABusyMachineAndTwoAreSaid(t *testing.T) {
	for late, want := range []bool{true, true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, console.Options{})
			r := &registry{}
			r.late.Store(int64(late))
			_, stop := start(t, w.net, service.Options{
				Name: "discovery", Listen: map[string]string{"grpc": "discovery:7000", "admin": "discovery:9090"},
			}, func(_ context.Context, setup *service.Setup) error {
				discoveryv1.RegisterDiscoveryServer(setup.GRPC(), r)
				return nil
			})
			defer stop()
			w.known.Put("discovery", []discovery.Instance{{
				ID: "discovery-1", Status: discovery.Up, Endpoints: map[string]string{"grpc": "discovery:7000"},
			}})
			next := w.events(t)
			type part struct {
				OK    bool
				Since time.Time
			}
			asked := time.Now()
			var parts map[string]part
			for parts = nil; ; {
				if next("parts", &parts); parts["registry"] != (part{}) {
					break
				}
			}
			if got := parts["registry"]; got.OK != want {
				t.Errorf("after %d late answers the registry answers: %v", late, got.OK)
			} else if !got.OK && got.Since.Sub(asked) > 2*time.Second {
				t.Errorf("it is away since %v after it was asked, want since the first late answer", got.Since.Sub(asked))
			}
			for !parts["registry"].OK {
				next("parts", &parts)
			}
		})
	}
}

func TestKillingGoesThroughTheInstanceAndIsAudited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		crashed := make(chan struct{}, 1)
		stop := w.victim(t, func() { crashed <- struct{}{} })
		defer stop()
		const json = "application/json"
		code, _, body := w.do(t, "POST", "/api/kill",
			`{"service":"catalog","id":"catalog-1","author":"ann","reason":"game day"}`, "Content-Type", json)
		if code != http.StatusOK || !strings.Contains(body, "catalog-1") {
			t.Fatalf("killing: %d %s", code, body)
		}
		<-crashed
		if log := w.log.String(); !strings.Contains(log, "msg=audit") || !strings.Contains(log, `author=ann`) ||
			!strings.Contains(log, `reason="game day"`) || !strings.Contains(log, "outcome=done") {
			t.Errorf("the log has no audit line: %s", log)
		}
		if code, _, body = w.do(t, "POST", "/api/kill", `{"service":"catalog","id":"catalog-9","author":"ann","reason":"game day"}`, "Content-Type", json); code != http.StatusNotFound {
			t.Errorf("killing nobody: %d %s", code, body)
		}
	})
}

func TestAnInstanceThatMayNotBeKilledSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		defer w.victim(t, nil)()
		code, _, body := w.do(t, "POST", "/api/kill", `{"service":"catalog","author":"ann","reason":"game day"}`,
			"Content-Type", "application/json")
		if code < 400 || code >= 500 || !strings.Contains(body, "-allow-kill") {
			t.Errorf("killing what does not allow it: %d %s", code, body)
		}
	})
}

func TestRefusals(t *testing.T) {
	const (
		force = `{"service":"web","name":"catalog","state":"STATE_FORCED_OPEN","author":"ann","reason":"game day"}`
		mute  = `{"service":"web","name":"catalog","state":"STATE_FORCED_OPEN"}`
	)
	for _, c := range []struct {
		name     string
		readOnly bool
		path     string
		body     string
		header   []string
		want     int
	}{
		{
			"a page of another site", false, "/api/circuits/Force", force,
			[]string{"Sec-Fetch-Site", "cross-site"},
			http.StatusForbidden,
		},
		{
			"another origin, from an old browser", false, "/api/circuits/Force", force,
			[]string{"Origin", "http://evil.example"},
			http.StatusForbidden,
		},
		{
			"a name that somebody else owns", false, "/api/circuits/Force", force,
			[]string{"Host", "evil.example"},
			http.StatusForbidden,
		},
		{
			"a form", false, "/api/circuits/Force", force,
			[]string{"Content-Type", "text/plain"},
			http.StatusUnsupportedMediaType,
		},
		{"nobody's deed", false, "/api/circuits/Force", mute, nil, http.StatusBadRequest},
		{"no JSON", false, "/api/circuits/Force", "{", nil, http.StatusBadRequest},
		{"an unknown field", false, "/api/circuits/Force", `{"servce":"web"}`, nil, http.StatusBadRequest},
		{"read-only", true, "/api/circuits/Force", force, nil, http.StatusForbidden},
		{"read-only kill", true, "/api/kill", `{"service":"x","author":"ann","reason":"r"}`, nil, http.StatusForbidden},
		{
			"too many requests", false, "/api/requests", `{"path":"/","count":100000,"author":"ann","reason":"r"}`, nil,
			http.StatusBadRequest,
		},
		{
			"requests elsewhere", false, "/api/requests", `{"path":"//evil.example/","count":1,"author":"ann","reason":"r"}`,
			nil, http.StatusBadRequest,
		},
		{"no such method", false, "/api/config/Declare", `{}`, nil, http.StatusNotFound},
		{"its owner is away", false, "/api/circuits/Force", force, nil, http.StatusServiceUnavailable},
		{"a question to a service that is away", true, "/api/config/List", `{}`, nil, http.StatusServiceUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, console.Options{ReadOnly: c.readOnly})
				header := append([]string{"Content-Type", "application/json"}, c.header...)
				if code, h, body := w.do(t, "POST", c.path, c.body, header...); code != c.want ||
					h.Get("Content-Type") != "application/problem+json" {
					t.Errorf("%d %s, want %d", code, body, c.want)
				}
			})
		})
	}
}

func TestThePageLoadsNothingFromElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{Hosts: []string{"console.example.org"}})
		for _, path := range []string{
			"/", "/map", "/services/catalog/catalog-1.example.org", "/settings/web.home.row",
			"/traces/0af7651916cd43dd8448eb211c80319c",
		} {
			code, h, body := w.do(t, "GET", path, "", "Host", "console.example.org")
			if code != http.StatusOK || !strings.Contains(body, "/app.js") || strings.Contains(body, "://") {
				t.Errorf("GET %s: %d %.300s", path, code, body)
			}
			policy := h.Get("Content-Security-Policy")
			if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") ||
				strings.Contains(policy, "unsafe") {
				t.Errorf("GET %s: policy %q", path, policy)
			}
		}
		code, h, script := w.do(t, "GET", "/app.js", "", "Accept-Encoding", "gzip")
		if code != http.StatusOK || h.Get("Content-Encoding") != "gzip" || script == "" {
			t.Errorf("the script: %d, %s, %d bytes", code, h.Get("Content-Encoding"), len(script))
		}
		if code, _, _ := w.do(t, "GET", "/app.js", "", "If-None-Match", h.Get("ETag")); code != http.StatusNotModified {
			t.Errorf("the same script again: %d", code)
		}
		if code, _, _ := w.do(t, "GET", "/nothing.js", ""); code != http.StatusNotFound {
			t.Errorf("a file that is not there: %d", code)
		}
	})
}

func TestPagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{MaxPages: 1})
		w.events(t)
		if code, _, body := w.do(t, "GET", "/api/stream", ""); code != http.StatusServiceUnavailable ||
			!strings.Contains(body, "-max-pages") {
			t.Errorf("the second page of one: %d %s", code, body)
		}
		if code, _, _ := w.do(t, "GET", "/api/stream?topics=weather", ""); code != http.StatusBadRequest {
			t.Errorf("an unknown topic: %d", code)
		}
	})
}
