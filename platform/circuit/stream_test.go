package circuit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/httpapi/httpapitest"
	"bijou.dev/platform/load"
	"bijou.dev/platform/memnet"
	"google.golang.org/protobuf/encoding/protojson"
)

// dashboardKeys are those that Hystrix's first dashboard needs: it ignores a circuit without one of them.
var dashboardKeys = strings.Fields(`
	type name group reportingHosts isCircuitBreakerOpen errorPercentage errorCount requestCount
	rollingCountBadRequests rollingCountCollapsedRequests rollingCountExceptionsThrown rollingCountFailure
	rollingCountFallbackFailure rollingCountFallbackRejection rollingCountFallbackSuccess rollingCountResponsesFromCache
	rollingCountSemaphoreRejected rollingCountShortCircuited rollingCountSuccess rollingCountThreadPoolRejected
	rollingCountTimeout currentConcurrentExecutionCount latencyExecute_mean latencyExecute latencyTotal_mean latencyTotal
	propertyValue_circuitBreakerRequestVolumeThreshold propertyValue_circuitBreakerSleepWindowInMilliseconds
	propertyValue_circuitBreakerErrorThresholdPercentage propertyValue_circuitBreakerForceOpen
	propertyValue_executionIsolationStrategy propertyValue_executionIsolationThreadTimeoutInMilliseconds
	propertyValue_executionIsolationThreadInterruptOnTimeout
	propertyValue_executionIsolationSemaphoreMaxConcurrentRequests
	propertyValue_fallbackIsolationSemaphoreMaxConcurrentRequests propertyValue_requestCacheEnabled
	propertyValue_requestLogEnabled propertyValue_metricsRollingStatisticalWindowInMilliseconds`)

// otherCommandKeys complete the format.
var otherCommandKeys = strings.Fields(`
	currentTime threadPool rollingCountEmit rollingCountFallbackEmit rollingCountFallbackMissing
	rollingMaxConcurrentExecutionCount propertyValue_circuitBreakerForceClosed propertyValue_circuitBreakerEnabled
	propertyValue_executionTimeoutInMilliseconds propertyValue_executionIsolationThreadPoolKeyOverride`)

var poolKeys = strings.Fields(`
	type name currentTime reportingHosts currentActiveCount currentCompletedTaskCount currentCorePoolSize
	currentLargestPoolSize currentMaximumPoolSize currentPoolSize currentQueueSize currentTaskCount
	rollingCountThreadsExecuted rollingMaxActiveThreads rollingCountCommandRejections
	propertyValue_queueSizeRejectionThreshold propertyValue_metricsRollingStatisticalWindowInMilliseconds`)

// events parses server-sent events.
func events(t *testing.T, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for block := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		data, ok := strings.CutPrefix(block, "data: ")
		if !ok {
			t.Fatalf("event %q has no data", block)
		}
		event := map[string]any{}
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			t.Fatalf("event %q: %v", data, err)
		}
		all = append(all, event)
	}
	return all
}

func wantKeys(t *testing.T, event map[string]any, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if v, ok := event[key]; !ok || v == nil && key != "propertyValue_executionIsolationThreadPoolKeyOverride" {
			t.Errorf("%v event has no %s", event["type"], key)
		}
	}
	if got := len(event); got != len(keys) {
		t.Errorf("%v event has %d keys, want %d", event["type"], got, len(keys))
	}
}

func TestEventsHaveAllKeys(t *testing.T) {
	s := circuit.New(circuit.Options{})
	calls(t, s, 3, succeed)
	calls(t, s, 2, fail)
	var buf bytes.Buffer
	if err := circuit.WriteEvents(&buf, s.Snapshots(), time.UnixMilli(1700000000000)); err != nil {
		t.Fatal(err)
	}
	got := events(t, buf.String())
	if len(got) != 2 {
		t.Fatalf("got %d events, want a command and a pool", len(got))
	}
	command, pool := got[0], got[1]
	wantKeys(t, command, append(dashboardKeys, otherCommandKeys...)...)
	wantKeys(t, pool, poolKeys...)
	for key, want := range map[string]any{
		"type": "HystrixCommand", "name": "catalog.GetMovie", "group": "catalog", "threadPool": "catalog",
		"currentTime": 1.7e12, "rollingCountSuccess": 3.0, "rollingCountFailure": 2.0, "rollingCountExceptionsThrown": 2.0,
		"requestCount": 5.0, "errorCount": 2.0, "errorPercentage": 40.0, "isCircuitBreakerOpen": false, "reportingHosts": 1.0,
		"propertyValue_circuitBreakerSleepWindowInMilliseconds": 5000.0, "propertyValue_circuitBreakerForceOpen": false,
		"propertyValue_executionIsolationStrategy":                    "SEMAPHORE",
		"propertyValue_executionIsolationThreadInterruptOnTimeout":    true,
		"propertyValue_requestCacheEnabled":                           false,
		"propertyValue_requestLogEnabled":                             false,
		"propertyValue_metricsRollingStatisticalWindowInMilliseconds": 10000.0,
	} {
		if command[key] != want {
			t.Errorf("%s is %v, want %v", key, command[key], want)
		}
	}
	for _, latency := range []string{"latencyExecute", "latencyTotal"} {
		for _, p := range []string{"0", "25", "50", "75", "90", "95", "99", "99.5", "100"} {
			if _, ok := command[latency].(map[string]any)[p].(float64); !ok {
				t.Errorf("%s has no number for %s", latency, p)
			}
		}
	}
	for key, want := range map[string]any{
		"type": "HystrixThreadPool", "name": "catalog",
		"rollingCountThreadsExecuted": 5.0, "currentMaximumPoolSize": 100.0,
	} {
		if pool[key] != want {
			t.Errorf("%s of the pool is %v, want %v", key, pool[key], want)
		}
	}
}

func TestOpenInSummedEvents(t *testing.T) {
	var m load.Meter
	m.Record(0, load.Succeeded, 7*time.Millisecond)
	sevenMs := m.Load(load.Window)
	for open, want := range map[int32]string{0: "false", 1: `{"false":2,"true":1}`, 3: "3"} {
		var buf bytes.Buffer
		if err := circuit.WriteEvents(&buf, []*circuitsv1.Snapshot{{
			Name: "catalog.GetMovie", ReportingHosts: 3, Load: sevenMs.Proto(), ErrorPercentage: 20,
			OpenInstances: open, Properties: map[string]string{"timeout": "1s"},
		}}, time.Now()); err != nil {
			t.Fatal(err)
		}
		event := events(t, buf.String())[0]
		if got, _ := json.Marshal(event["isCircuitBreakerOpen"]); string(got) != want {
			t.Errorf("%d of 3 open: isCircuitBreakerOpen is %s, want %s", open, got, want)
		}
		for name, want := range map[string]float64{
			"latencyExecute_mean": 21, "errorPercentage": 60, "propertyValue_executionTimeoutInMilliseconds": 3000,
		} {
			if event[name] != want {
				t.Errorf("%s is %v, want %v: the mean times 3 hosts", name, event[name], want)
			}
		}
	}
}

// serve runs h on a network of its own and returns a client for it.
func serve(t *testing.T, h http.Handler) *http.Client {
	t.Helper()
	n := memnet.New()
	l, err := n.Listen("tcp", "circuits:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Config.WriteTimeout = 2 * time.Second // a stream must outlive it
	srv.Start()
	t.Cleanup(srv.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return n.DialContext(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(map[string]string{"circuit.stream.maxConnections": "1"})
		s := circuit.New(circuit.Options{Config: cfg})
		client := serve(t, s.StreamHandler())

		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://circuits/hystrix.stream", nil)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		assertHeader(t, resp.Header, "Content-Type", "text/event-stream;charset=UTF-8")
		assertHeader(t, resp.Header, "Cache-Control", "no-cache, no-store, max-age=0, must-revalidate")
		assertHeader(t, resp.Header, "X-Content-Type-Options", "nosniff")
		lines := bufio.NewReader(resp.Body)
		read := func() string {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			_, _ = lines.ReadString('\n')
			return line
		}
		if got := read(); got != "ping: \n" {
			t.Errorf("idle stream sent %q, want a ping", got)
		}
		calls(t, s, 1, succeed)
		for i := range 10 { // longer than the server's write time-out
			start := time.Now()
			for _, want := range []string{"HystrixCommand", "HystrixThreadPool"} {
				if got := read(); !strings.Contains(got, want) {
					t.Errorf("got %q, want a %s", got, want)
				}
			}
			if d := time.Since(start); i > 0 && (d < 475*time.Millisecond || d > 525*time.Millisecond) {
				t.Errorf("waited %v, want about 500ms", d)
			}
		}

		second, err := client.Get("http://circuits/hystrix.stream")
		if err != nil {
			t.Fatal(err)
		}
		second.Body.Close()
		if second.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("second stream got %s, want 503", second.Status)
		}

		cancel()
		resp.Body.Close()
		synctest.Wait()
		third, err := client.Get("http://circuits/hystrix.stream")
		if err != nil {
			t.Fatal(err)
		}
		third.Body.Close()
		if third.StatusCode != http.StatusOK {
			t.Errorf("after the first was closed a stream got %s", third.Status)
		}
	})
}

func assertHeader(t *testing.T, h http.Header, name, want string) {
	t.Helper()
	if got := h.Get(name); got != want {
		t.Errorf("the header %s is %q, want %q", name, got, want)
	}
}

func TestHandler(t *testing.T) {
	s := circuit.New(circuit.Options{Service: "web", Instance: "web-1"})
	calls(t, s, 20, fail)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/circuits", nil))
	assertHeader(t, w.Header(), "Content-Type", "application/json")
	assertHeader(t, w.Header(), "X-Content-Type-Options", "nosniff")
	var got circuitsv1.ServiceCircuits
	if err := protojson.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	if got.Service != "web" || len(got.Instances) != 1 || len(got.Circuits) != 1 {
		t.Fatalf("got %v", &got)
	}
	c := got.Circuits[0]
	if c.State != open || c.Reason == "" || c.Since.AsTime().IsZero() {
		t.Errorf("the circuit is %v since %v because %q, want it open, with a time and a reason",
			c.State, c.Since, c.Reason)
	}
	if got := c.Properties["minCalls"]; got != "20" {
		t.Errorf("its property minCalls is %q, want 20", got)
	}
	httpapitest.Check(t, s.Handler(), http.MethodGet, "/circuits", "")
}
