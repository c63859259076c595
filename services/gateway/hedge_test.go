package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// hedging is an edge with a route that hedges after 200 ms, and instances that do what the test says. Which instance
// gets the first attempt is random, so steps are given by the order in which instances are asked.
type hedging struct {
	*world
	asked atomic.Int64 // requests that instances have got

	mu       sync.Mutex
	canceled map[int64]bool // requests of instances that ended before their time
	bodies   []string
}

// step is what the instance does that gets a request: it waits, and then answers with a status.
type step struct {
	wait   time.Duration
	status int
}

const hedgeRoute = `[{"name":"web","to":[{"service":"web","endpoint":%q}],"hedge":{"after":"200ms"}}]`

// newHedging starts n instances. The i-th request of all that instances get takes the i-th step.
func newHedging(t *testing.T, endpoint string, n int, steps []step, settings ...string) *hedging {
	t.Helper()
	h := &hedging{canceled: map[int64]bool{}}
	h.world = newWorld(t, fmt.Sprintf(hedgeRoute, endpoint), append(settings, "gateway.debug", "true")...)
	h.addInstances(n, steps)
	return h
}

func (h *hedging) addInstances(n int, steps []step) {
	for i := range n {
		h.origin("web", fmt.Sprint("web-", i), "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			i := h.asked.Add(1)
			body, _ := io.ReadAll(r.Body) // a body that is cut is shorter than wanted
			h.mu.Lock()
			h.bodies = append(h.bodies, string(body))
			h.mu.Unlock()
			s := steps[min(int(i), len(steps))-1]
			select {
			case <-time.After(s.wait):
			case <-r.Context().Done():
				h.mu.Lock()
				h.canceled[i] = true
				h.mu.Unlock()
				return
			}
			rw.WriteHeader(s.status)
			_, _ = fmt.Fprintf(rw, "answer %d", i) // a client that left fails the test itself
		}))
	}
}

// attempts are the words that X-Bijou-Attempts has about each attempt, without instance and time. An instance that was
// asked twice is "again".
func attempts(res answer) string {
	var words []string
	seen := map[string]bool{}
	for a := range strings.SplitSeq(res.Header.Get("X-Bijou-Attempts"), "; ") {
		if f := strings.Fields(a); len(f) == 3 {
			words = append(words, f[1])
			if seen[f[0]] {
				words = append(words, "again")
			}
			seen[f[0]] = true
		}
	}
	return strings.Join(words, " ")
}

// state is what the balancer knows of the instances.
func (h *hedging) state() string {
	rec := httptest.NewRecorder()
	h.edge.RoutesHandler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/routes", nil))
	return rec.Body.String()
}

// results are the hedges by result, as metrics count them.
func (h *hedging) results() string {
	var all []string
	for _, r := range []string{"won", "lost", "failed", "budget", "no_instance"} {
		if n := h.metric("bijou_gateway_hedges_total", "result="+r); n > 0 {
			all = append(all, fmt.Sprint(r, " ", n))
		}
	}
	return strings.Join(all, ", ")
}

func TestHedges(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name      string
		steps     []step
		instances int // 0: 3
		settings  []string

		answer   string // status and body
		took     time.Duration
		attempts string
		results  string
		canceled int
	}{
		{
			name: "a fast request has no hedge", steps: []step{{100 * ms, 200}},
			answer: "200 answer 1", took: 100 * ms, attempts: "200",
		},
		{
			name: "the hedge is faster", steps: []step{{10 * time.Second, 200}, {100 * ms, 200}},
			answer: "200 answer 2", took: 300 * ms, attempts: "canceled 200", results: "won 1", canceled: 1,
		},
		{
			name: "the first attempt is faster", steps: []step{{300 * ms, 200}, {time.Second, 200}},
			answer: "200 answer 1", took: 300 * ms, attempts: "canceled 200", results: "lost 1", canceled: 1,
		},
		{
			name: "an error that no retry helps against is a response", steps: []step{{time.Second, 200}, {100 * ms, 404}},
			answer: "404 answer 2", took: 300 * ms, attempts: "canceled 404", results: "won 1", canceled: 1,
		},
		{
			name: "the hedge fails", steps: []step{{time.Second, 200}, {100 * ms, 503}},
			answer: "200 answer 1", took: time.Second, attempts: "503 200", results: "failed 1",
		},
		{
			name: "the first attempt fails", steps: []step{{300 * ms, 503}, {500 * ms, 200}},
			answer: "200 answer 2", took: 700 * ms, attempts: "503 200", results: "won 1",
		},
		{
			name: "the first attempt fails before the hedge", steps: []step{{100 * ms, 503}, {100 * ms, 200}},
			answer: "200 answer 2", attempts: "503 200",
		},
		{
			name: "both fail, and a third attempt is made", steps: []step{{300 * ms, 503}, {200 * ms, 502}, {0, 200}},
			answer: "200 answer 3", attempts: "502 503 200", results: "failed 1",
		},
		{
			name: "all three fail", instances: 5, steps: []step{{300 * ms, 503}, {200 * ms, 502}, {0, 504}, {0, 200}},
			answer: "504 answer 3", attempts: "502 503 504", results: "failed 1",
		},
		{
			name: "no more attempts than settings allow", steps: []step{{300 * ms, 503}, {200 * ms, 502}, {0, 200}},
			settings: []string{"retry.maxAttempts", "2"},
			answer:   "503 answer 1", took: 400 * ms, attempts: "502 503", results: "failed 1",
		},
		{
			name: "without retries there are no hedges", steps: []step{{time.Second, 200}},
			settings: []string{"retry.maxAttempts", "1"},
			answer:   "200 answer 1", took: time.Second, attempts: "200",
		},
		{
			name: "the budget is used up", steps: []step{{time.Second, 200}},
			settings: []string{"retry.budget.ratio", "0", "retry.budget.floorPerSecond", "0"},
			answer:   "200 answer 1", took: time.Second, attempts: "200", results: "budget 1",
		},
		{
			name: "there is no other instance", instances: 1, steps: []step{{time.Second, 200}},
			answer: "200 answer 1", took: time.Second, attempts: "200", results: "no_instance 1",
		},
		{
			name: "no attempt answers in time", steps: []step{{time.Minute, 200}},
			settings: []string{"gateway.timeout.header", "1s", "gateway.timeout.total", "1s"},
			answer:   "504", took: time.Second, attempts: "origin_timeout origin_timeout", results: "failed 1", canceled: 2,
		},
	} {
		for _, endpoint := range []string{"http", "grpc"} {
			t.Run(tt.name+" "+endpoint, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					if tt.instances == 0 {
						tt.instances = 3
					}
					h := newHedging(t, endpoint, tt.instances, tt.steps, tt.settings...)
					begin := time.Now()
					res := h.get("http://x/")
					took := time.Since(begin)
					got := fmt.Sprint(res.StatusCode, " ", res.body)
					if !strings.HasPrefix(got, tt.answer) || tt.took > 0 && took != tt.took {
						t.Errorf("got %q after %v, want %q after %v", got, took, tt.answer, tt.took)
					}
					if got := attempts(res); got != tt.attempts {
						t.Errorf("attempts are %q (%s), want %q", got, res.Header.Get("X-Bijou-Attempts"), tt.attempts)
					}
					synctest.Wait()
					if got := h.results(); got != tt.results {
						t.Errorf("hedges are counted as %q, want %q", got, tt.results)
					}
					h.mu.Lock()
					canceled := len(h.canceled)
					h.mu.Unlock()
					if canceled != tt.canceled {
						t.Errorf("%d requests of instances were canceled, want %d", canceled, tt.canceled)
					}
					state := h.state()
					if strings.Count(state, `"pending": 0`) != tt.instances {
						t.Errorf("after the request instances have requests in progress: %s", state)
					}
					if tt.results == "won 1" && tt.canceled == 1 && strings.Count(state, `"failures": 0`) != tt.instances {
						t.Errorf("a canceled attempt counts as a failure: %s", state)
					}
				})
			})
		}
	}
}

// Only requests that may be sent twice at the same time are hedged.
func TestRequestsThatAreNotHedged(t *testing.T) {
	for _, tt := range []struct {
		name, method, body string
		header             []string
		asked              int64
	}{
		{"HEAD", http.MethodHead, "", nil, 2},
		{"OPTIONS", http.MethodOptions, "", nil, 2},
		{"GET with a small body", http.MethodGet, "small", nil, 2},
		{"GET with a large body", http.MethodGet, strings.Repeat("x", 100<<10), nil, 1},
		{"POST", http.MethodPost, "small", nil, 1},
		{"PUT, which may be retried", http.MethodPut, "small", nil, 1},
		{"POST with a key", http.MethodPost, "small", []string{"Idempotency-Key", "1"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHedging(t, "http", 3, []step{{time.Second, 200}})
				res := h.do(h.client(false), tt.method, "http://x/", strings.NewReader(tt.body), tt.header...)
				if got := h.asked.Load(); got != tt.asked || res.StatusCode != 200 {
					t.Errorf("got %d, and instances got %d requests, want 200 and %d", res.StatusCode, got, tt.asked)
				}
				h.mu.Lock()
				defer h.mu.Unlock()
				for _, body := range h.bodies {
					if body != tt.body {
						t.Errorf("an instance got a body of %d bytes, want %d", len(body), len(tt.body))
					}
				}
			})
		})
	}
}

// When the client leaves, both attempts end, and neither counts against its instance.
func TestClientsThatLeaveDuringAHedge(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, after := range []time.Duration{200 * time.Millisecond, 500 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				h := newHedging(t, "http", 3, []step{{time.Minute, 200}})
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/", nil)
				if err != nil {
					t.Fatal(err)
				}
				if res, err := h.client(h2).Do(req); err == nil {
					res.Body.Close()
					t.Fatal("the request ended before its client left")
				}
				synctest.Wait()
				h.mu.Lock()
				asked, canceled := h.asked.Load(), len(h.canceled)
				h.mu.Unlock()
				if int64(canceled) != asked || after > 200*time.Millisecond && asked != 2 {
					t.Errorf("HTTP/2 %t: %d of %d attempts ended with the client, want all", h2, canceled, asked)
				}
				if state := h.state(); strings.Count(state, `"pending": 0`) != 3 || strings.Count(state, `"failures": 0`) != 3 {
					t.Errorf("HTTP/2 %t: after the client has left: %s", h2, state)
				}
			})
		}
	}
}

// The client that leaves while it reads the response of the hedge ends that.
func TestClientsThatLeaveTheResponseOfAHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hedging{}
		h.world = newWorld(t, fmt.Sprintf(hedgeRoute, "http"))
		var ended atomic.Bool
		for i := range 2 {
			h.origin("web", fmt.Sprint("web-", i), "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if h.asked.Add(1) == 2 {
					_, _ = io.WriteString(rw, "begin") // a client that left fails the test itself
					_ = http.NewResponseController(rw).Flush()
					<-r.Context().Done()
					ended.Store(true)
				}
				<-r.Context().Done()
			}))
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := h.client(false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		begin := make([]byte, 5)
		if _, err := io.ReadFull(res.Body, begin); err != nil || string(begin) != "begin" {
			t.Fatalf("the response of the hedge begins with %q, %v", begin, err)
		}
		synctest.Wait()
		if ended.Load() {
			t.Fatal("the response of the hedge ended before its client left")
		}
		cancel()
		synctest.Wait()
		if !ended.Load() {
			t.Error("the client has left, and the instance still sends")
		}
	})
}

// Each attempt has a span. That of the hedge says so, and the canceled one is no error.
func TestSpansOfHedges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spans := tracetest.NewInMemoryExporter()
		tracer, err := trace.New(trace.Options{Service: "gateway", Exporter: spans})
		if err != nil {
			t.Fatal(err)
		}
		h := &hedging{canceled: map[int64]bool{}}
		h.world = worldWith(t, gateway.EdgeOptions{Trace: tracer}, fmt.Sprintf(hedgeRoute, "http"))
		h.addInstances(2, []step{{time.Second, 200}, {100 * time.Millisecond, 200}})
		h.get("http://x/", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		if err := tracer.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		parents := map[string]bool{}
		for _, s := range spans.GetSpans() {
			attrs := map[string]string{}
			for _, kv := range s.Attributes {
				attrs[string(kv.Key)] = kv.Value.String()
			}
			if attrs["bijou.route.instance"] == "" {
				continue
			}
			parents[s.Parent.SpanID().String()] = true
			got = append(got, fmt.Sprintf("hedge %q, canceled %q, resent %s, status %q, %v", attrs["bijou.hedge"],
				attrs["bijou.canceled"], attrs["http.request.resend_count"], attrs["http.response.status_code"], s.Status.Code))
		}
		want := `hedge "true", canceled "", resent 1, status "200", Unset` + "\n" +
			`hedge "", canceled "true", resent 0, status "", Unset`
		if text := strings.Join(got, "\n"); text != want || len(parents) != 1 {
			t.Errorf("the spans of the attempts are\n%s\nwant\n%s\nwith one parent, have %d", text, want, len(parents))
		}
		if err := tracer.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Many requests whose two attempts end at about the same time: each response is whole, and nothing stays behind.
func TestManyHedges(t *testing.T) {
	for _, endpoint := range []string{"http", "grpc"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, fmt.Sprintf(hedgeRoute, endpoint), "retry.budget.floorPerSecond", "10000")
			text := strings.Repeat("0123456789", 10_000)
			for i := range 4 {
				var n atomic.Int64
				w.origin("web", fmt.Sprint("web-", i), "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					wait := time.Duration(n.Add(1)*37%12) * 50 * time.Millisecond
					select {
					case <-time.After(wait):
					case <-r.Context().Done():
						return
					}
					_, _ = io.WriteString(rw, text) // the edge may have canceled it
				}))
			}
			c := w.client(false)
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					for range 20 {
						if res := w.do(c, http.MethodGet, "http://x/", nil); res.StatusCode != 200 || res.body != text {
							t.Errorf("%s: got %d with %d bytes, want 200 with %d", endpoint, res.StatusCode, len(res.body), len(text))
						}
					}
				})
			}
			all.Wait()
			synctest.Wait()
			h := &hedging{world: w}
			if state := h.state(); strings.Count(state, `"pending": 0`) != 4 {
				t.Errorf("%s: after all requests: %s", endpoint, state)
			}
			if h.metric("bijou_gateway_hedges_total", "result=won") == 0 ||
				h.metric("bijou_gateway_hedges_total", "result=lost") == 0 {
				t.Errorf("%s: hedges ended as %s, want some that won and some that lost", endpoint, h.results())
			}
		})
	}
}

// A defect in one of two attempts ends that attempt, and nothing stays behind. In the first attempt it ends the
// request.
func TestAPanicDuringAHedge(t *testing.T) {
	for _, tt := range []struct {
		dial, status int // the connection that has the defect
	}{{1, 500}, {2, 200}} {
		synctest.Test(t, func(t *testing.T) {
			h := &hedging{canceled: map[int64]bool{}}
			var dials atomic.Int64
			h.world = worldWith(t, gateway.EdgeOptions{
				DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
					if dials.Add(1) == int64(tt.dial) {
						time.Sleep(300 * time.Millisecond)
						panic("a defect in a test")
					}
					return h.net.DialContext(ctx, network, addr)
				},
			}, fmt.Sprintf(hedgeRoute, "http"))
			h.addInstances(3, []step{{time.Second, 200}})
			if res := h.get("http://x/"); res.StatusCode != tt.status {
				t.Errorf("a defect in connection %d: got %d %s, want %d", tt.dial, res.StatusCode, res.body, tt.status)
			}
			synctest.Wait()
			if text := h.log.String(); !strings.Contains(text, "a defect of the edge ended") {
				t.Errorf("the log does not tell of the defect: %s", text)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if tt.dial == 1 && len(h.canceled) != 1 {
				t.Error("the first attempt had a defect, and the hedge was not canceled")
			}
			if state := h.state(); strings.Count(state, `"pending": 0`) != 3 {
				t.Errorf("a defect in connection %d: instances have requests in progress: %s", tt.dial, state)
			}
		})
	}
}

// The client gets interim responses of the first attempt only.
func TestInterimResponsesOfHedges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hedging{}
		h.world = newWorld(t, fmt.Sprintf(hedgeRoute, "http"))
		for i := range 2 {
			h.origin("web", fmt.Sprint("web-", i), "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				n := h.asked.Add(1)
				rw.Header().Set("Link", fmt.Sprint("</", n, ">"))
				rw.WriteHeader(http.StatusEarlyHints)
				select {
				case <-time.After(time.Second / time.Duration(n)):
				case <-r.Context().Done(): // the edge has canceled it
				}
				_, _ = fmt.Fprint(rw, n) // the same
			}))
		}
		statuses, headers := h.raw("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if len(statuses) != 2 || statuses[0] != 103 || headers[0].Get("Link") != "</1>" || statuses[1] != 200 ||
			headers[1].Get("Link") != "</2>" {
			t.Errorf("got %v with %v, want 103 of the first attempt and 200 of the hedge", statuses, headers)
		}
	})
}
