package circuits_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/service"
	"bijou.dev/services/circuits"
	"google.golang.org/protobuf/encoding/protojson"
)

// client serves a board's HTTP API on the world's network.
func (w *world) client(t *testing.T, b *circuits.Board) *http.Client {
	t.Helper()
	l, err := w.net.Listen("tcp", "circuits:8080")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: b.Handler()}
	go func() { _ = srv.Serve(l) }()
	transport := &http.Transport{DialContext: w.net.DialContext}
	t.Cleanup(func() { srv.Close(); transport.CloseIdleConnections() })
	return &http.Client{Transport: transport}
}

// turbine opens a stream. Next returns the events of the next round by type and name, with "" for a ping.
func turbine(
	t *testing.T, client *http.Client, query string,
) (next func() map[string]map[string]any, closeStream func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://circuits:8080/turbine.stream"+query, nil)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream;charset=UTF-8" {
		t.Fatalf("got %s of type %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func() map[string]map[string]any {
		events := map[string]map[string]any{}
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "ping:") {
				events[""] = nil
			}
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			event := map[string]any{}
			if err := json.Unmarshal([]byte(data), &event); err != nil {
				t.Fatalf("%s: %v", data, err)
			}
			events[event["type"].(string)+" "+event["name"].(string)] = event
			if event["type"] == "meta" { // the last of a round
				return events
			}
		}
		t.Fatalf("stream ended: %v", lines.Err())
		return nil
	}, func() { cancel(); resp.Body.Close(); synctest.Wait() }
}

func assertFields(t *testing.T, event, want map[string]any) {
	t.Helper()
	for key, v := range want {
		if event[key] != v {
			t.Errorf("%s is %v, want %v", key, event[key], v)
		}
	}
}

func TestTurbineStreamShowsCircuits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		board, one, _ := w.replica(t, "circuits-1", circuits.Options{MaxStreams: 3})
		_, two, _ := w.replica(t, "circuits-2", circuits.Options{})
		client := w.client(t, board)
		a, b, c := reporter(t, one), reporter(t, two), reporter(t, one)
		round := func() {
			send(t, a, report("web", "web-1", getMovie(30, 0)))
			send(t, b, report("web", "web-2", opened(getMovie(10, 10))))
			send(t, c, report("search", "search-1", getMovie(5, 0)))
		}
		round()
		time.Sleep(1100 * time.Millisecond)
		round()

		web, closeWeb := turbine(t, client, "?cluster=web")
		events := web()
		command := events["HystrixCommand catalog.GetMovie"]
		assertFields(t, command, map[string]any{
			"reportingHosts": 2.0, "requestCount": 40.0, "rollingCountFailure": 10.0,
			// 25 % and 1000 ms, times two
			"errorPercentage": 50.0, "propertyValue_executionTimeoutInMilliseconds": 2000.0,
			"propertyValue_circuitBreakerForceOpen": false, "propertyValue_executionIsolationStrategy": "SEMAPHORE",
		})
		if open, _ := json.Marshal(command["isCircuitBreakerOpen"]); string(open) != `{"false":1,"true":1}` {
			t.Errorf("isCircuitBreakerOpen is %s", open)
		}
		assertFields(t, events["HystrixThreadPool catalog"], map[string]any{
			"reportingHosts": 2.0, "rollingCountThreadsExecuted": 40.0,
		})
		assertFields(t, events["meta meta"], map[string]any{"reportingHostsLast10Seconds": 2.0})

		for _, query := range []string{"", "?cluster=default"} {
			all, closeAll := turbine(t, client, query)
			events := all()
			assertFields(t, events["HystrixCommand catalog.GetMovie"],
				map[string]any{"reportingHosts": 3.0, "requestCount": 45.0})
			assertFields(t, events["meta meta"], map[string]any{"reportingHostsLast10Seconds": 3.0})
			closeAll()
		}

		unknown, closeUnknown := turbine(t, client, "?cluster=unknown")
		for range 2 {
			events := unknown()
			if _, ping := events[""]; !ping || len(events) != 2 {
				t.Errorf("an unknown cluster gets %v, want a ping and meta", events)
			}
			assertFields(t, events["meta meta"], map[string]any{"reportingHostsLast10Seconds": 0.0})
		}
		closeUnknown()

		// A circuit that no process reports any more is sent once with zeros.
		zeros := 0
		for range 15 {
			if c := web()["HystrixCommand catalog.GetMovie"]; c != nil && c["requestCount"] == 0.0 {
				zeros++
				assertFields(t, c,
					map[string]any{"reportingHosts": 1.0, "rollingCountFailure": 0.0, "isCircuitBreakerOpen": false})
			}
		}
		if zeros != 1 {
			t.Errorf("%d events with zeros, want 1", zeros)
		}
		closeWeb()

		for range 3 {
			turbine(t, client, "")
		}
		resp, err := client.Get("http://circuits:8080/turbine.stream")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a fourth stream got %s, want 503", resp.Status)
		}
	})
}

func TestListOfCircuits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		board, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		send(t, reporter(t, client), report("web", "web-1", getMovie(30, 0)))
		send(t, reporter(t, client), report("search", "search-1", getMovie(5, 0)))
		for query, want := range map[string]int{"": 2, "?service=web": 1, "?service=unknown": 0} {
			rec := httptest.NewRecorder()
			board.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/v1/circuits"+query, nil))
			var got circuitsv1.WatchResponse
			if err := protojson.Unmarshal(rec.Body.Bytes(), &got); err != nil {
				t.Fatalf("%s: %v", rec.Body, err)
			}
			if len(got.Services) != want {
				t.Errorf("%q lists %d services, want %d", query, len(got.Services), want)
			}
		}
	})
}

// Two replicas run in one process, as processes of the platform.
func TestTwoReplicasInOneProcess(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for _, host := range []string{"a", "b"} {
		p, err := service.New(ctx, service.Options{
			Name: "circuits", Instance: "circuits-" + host,
			Listen: map[string]string{"grpc": host + ":7000", "http": host + ":8080"},
			Net:    service.Net{Listen: w.net.Listen, DialContext: w.net.DialContext},
			Drain:  100 * time.Millisecond,
		}, func(ctx context.Context, setup *service.Setup) error {
			return circuits.New(ctx, setup, circuits.Options{})
		})
		if err != nil {
			t.Fatal(err)
		}
		go func() { ended <- p.Run(ctx) }()
	}
	for _, host := range []string{"a", "b"} {
		client := circuitsv1.NewCircuitsClient(w.dial(t, host+":7000"))
		if err := reporter(t, client).Send(report("web", "web-"+host, getMovie(1, 0))); err != nil {
			t.Fatal(err)
		}
		watching, err := client.Watch(t.Context(), &circuitsv1.WatchRequest{Service: "web"})
		for err == nil {
			var resp *circuitsv1.WatchResponse
			if resp, err = watching.Recv(); len(resp.GetServices()) == 1 {
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
