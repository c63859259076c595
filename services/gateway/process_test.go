package gateway_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway"
	"bijou.dev/services/gateway/routes"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Two gateways run in one process, without a registry.
func TestTwoGatewaysInOneProcess(t *testing.T) {
	var list routes.Routes
	if err := list.Set(toWeb); err != nil {
		t.Fatal(err)
	}
	network := memnet.New()
	client := &http.Client{Transport: &http.Transport{DialContext: network.DialContext}}
	defer client.CloseIdleConnections()
	for _, host := range []string{"one", "two"} {
		p, err := service.New(t.Context(), service.Options{
			Name: "gateway", Instance: host, Drain: time.Second,
			Listen: map[string]string{"http": host + ":80", "admin": host + ":90"},
			Net:    service.Net{Listen: network.Listen, DialContext: network.DialContext},
		}, func(ctx context.Context, setup *service.Setup) error {
			return gateway.New(ctx, setup, gateway.Options{Routes: list})
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		defer func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if c, err := network.DialContext(t.Context(), "tcp", host+":80"); err == nil {
				c.Close()
				t.Errorf("%s still listens", host)
			}
		}()
	}
	for _, host := range []string{"one", "two"} {
		if res := get(t, client, "http://"+host+"/"); res.Header.Get("X-Bijou-Fault") != "origin_unreachable" {
			t.Errorf("the edge answers %d %s", res.StatusCode, res.body)
		}
		var page struct{ Routes []routes.Route }
		if res := get(t, client, "http://"+host+":90/routes"); json.Unmarshal([]byte(res.body), &page) != nil ||
			len(page.Routes) != 1 {
			t.Errorf("/routes is %d %s", res.StatusCode, res.body)
		}
		if res := get(t, client, "http://"+host+":80/metrics"); res.StatusCode != 503 {
			t.Errorf("the edge serves /metrics: %d", res.StatusCode)
		}
	}
}

func get(t *testing.T, c *http.Client, url string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res, string(body)}
}

func TestNewRefuses(t *testing.T) {
	for name, opts := range map[string]service.Options{
		"no listener": {Listen: map[string]string{"admin": "127.0.0.1:0"}},
		"bad routes":  {Listen: map[string]string{"http": "127.0.0.1:0"}},
	} {
		opts.Name = "gateway"
		_, err := service.New(t.Context(), opts, func(ctx context.Context, setup *service.Setup) error {
			return gateway.New(ctx, setup, gateway.Options{Routes: routes.Routes{{Name: "web"}}})
		})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := gateway.NewEdge(gateway.EdgeOptions{}); err == nil {
		t.Error("an edge without discovery: no error")
	}
}

// A request has the trace of its client, a span of the edge, and a span for each attempt with the reason of the pick.
// The origin gets the context of its attempt.
func TestSpansOfARequest(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	provider, err := trace.New(trace.Options{Service: "gateway", Exporter: spans})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = provider.Shutdown(context.WithoutCancel(t.Context())) }()
	for name, value := range map[string]string{
		"Traceparent": "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01",
		"B3":          "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1",
	} {
		// An edge of its own: after a failure the balancer avoids the instance.
		w := worldWith(t, gateway.EdgeOptions{Trace: provider}, toWeb, "retry.backoff.base", "1ms")
		var got string
		w.origin("web", "web-1", "v1", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got = r.Header.Get("Traceparent")
		}))
		w.register("web", "web-0", "v1", "web-0:80") // refuses connections
		retried := false
		for i := 0; i < 50 && !retried; i++ {
			spans.Reset()
			w.get("http://x/a?secret=1", name, value)
			if err := provider.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			list := spans.GetSpans()
			retried = len(list) == 3
			server := list[len(list)-1]
			attempt := list[len(list)-2]
			if server.Parent.SpanID().String() != "a2fb4a1d1a96d312" || server.Name != "GET /" {
				t.Fatalf("the edge's span is %q below %v", server.Name, server.Parent.SpanID())
			}
			if attempt.Parent.SpanID() != server.SpanContext.SpanID() {
				t.Error("the attempt's span is not below the edge's")
			}
			if want := "00-463ac35c9f6413ad48485a3953bb6124-" + attempt.SpanContext.SpanID().String() +
				"-01"; got != want {
				t.Errorf("the origin got %s, want %s", got, want)
			}
			attrs := map[string]string{}
			for _, a := range append(attempt.Attributes, server.Attributes...) {
				attrs[string(a.Key)] = a.Value.String()
			}
			if attrs["bijou.route.instance"] != "web-1" || attrs["bijou.gateway.route"] != "web" ||
				attrs["url.path"] != "/a" {
				t.Errorf("attributes: %v", attrs)
			}
			if retried && (attrs["bijou.gateway.attempts"] != "2" || attrs["http.request.resend_count"] != "1") {
				t.Errorf("attributes of a retry: %v", attrs)
			}
		}
		if !retried {
			t.Error("no request was retried")
		}
	}
}

// Close returns while clients and origins do not respond.
func TestCloseEndsRequestsInProgress(t *testing.T) {
	w := newWorld(t, toWeb)
	reached := make(chan struct{}, 2)
	w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		reached <- struct{}{}
		<-r.Context().Done()
	}))
	for _, h2 := range []bool{false, true} {
		c := w.client(h2)
		go func() {
			if res, err := c.Do(mustRequest(t)); err == nil {
				res.Body.Close()
			}
		}()
		<-reached
	}
	// the edge waits for the rest
	_, _ = io.WriteString(w.dial(), "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
	_, _ = io.WriteString(w.dial(), "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nab")
	<-reached
	if err := w.edge.Close(); err != nil {
		t.Error(err)
	}
}
