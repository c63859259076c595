package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Each route has its own attempts and methods for retries, and no instance gets a request twice.
func TestRetriesOfARoute(t *testing.T) {
	w := newWorld(t, `[
		{"name":"plain","match":{"prefix":"/plain"},"to":[{"service":"web"}]},
		{"name":"never","match":{"prefix":"/never"},"to":[{"service":"web"}],"retry":{"attempts":1}},
		{"name":"twice","match":{"prefix":"/twice"},"to":[{"service":"web"}],"retry":{"attempts":2}},
		{"name":"often","match":{"prefix":"/often"},"to":[{"service":"web"}],"retry":{"attempts":10}},
		{"name":"post","match":{"prefix":"/post"},"to":[{"service":"web"}],"retry":{"methods":["POST"]}}
	]`, "gateway.debug", "true", "retry.backoff.base", "1ms", "retry.maxAttempts", "4",
		"circuit.default.breakerEnabled", "false", "route.ejection.consecutiveFailures", "0")
	for i := range 5 {
		w.origin("web", fmt.Sprintf("web-%d", i), "", respondsStatus(503))
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/plain", 3},
		{"POST", "/plain", 1},
		{"GET", "/never", 1},
		{"GET", "/twice", 2},
		{"POST", "/post", 3},
		{"GET", "/post", 1},
		{"GET", "/often", 4}, // the setting retry.maxAttempts bounds every route
	} {
		res := w.do(w.client(false), c.method, "http://x"+c.path, nil)
		var tried []string
		for a := range strings.SplitSeq(res.Header.Get("X-Bijou-Attempts"), "; ") {
			id, _, _ := strings.Cut(a, " ")
			tried = append(tried, id)
		}
		slices.Sort(tried)
		if res.StatusCode != 503 || len(tried) != c.want || len(slices.Compact(slices.Clone(tried))) != c.want {
			t.Errorf("%s %s: status %d, tried %v, want %d different instances", c.method, c.path, res.StatusCode, tried,
				c.want)
		}
	}
}

// The timeouts of a route limit the origin; without them, the live settings do.
func TestTimeoutsOfARoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[
			{"name":"plain","match":{"prefix":"/plain"},"to":[{"service":"web"}],"retry":{"attempts":1}},
			{"name":"quick","match":{"prefix":"/quick"},"to":[{"service":"web"}],"retry":{"attempts":1},
				"timeout":{"header":"500ms","total":"2s"}},
			{"name":"long","match":{"prefix":"/long"},"to":[{"service":"web"}],"retry":{"attempts":1},
				"timeout":{"header":"10s","total":"0s"}}
		]`, "gateway.timeout.header", "3s", "gateway.timeout.total", "8s", "circuit.default.breakerEnabled", "false",
			"route.ejection.consecutiveFailures", "0")
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			wait := time.Hour
			if r.URL.Query().Has("minute") {
				wait = time.Minute
			}
			if strings.HasSuffix(r.URL.Path, "/drip") {
				_ = http.NewResponseController(rw).Flush() // the header, and nothing for a long time
			}
			select {
			case <-r.Context().Done():
			case <-time.After(wait):
				_, _ = io.WriteString(rw, "late")
			}
		}))
		c := w.client(false)
		ask := func(path string, want time.Duration, status int, whole bool) {
			t.Helper()
			begin := time.Now()
			req := mustRequest(t)
			req.URL.Path, req.URL.RawQuery, _ = strings.Cut(path, "?")
			res, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			defer res.Body.Close()
			_, err = io.ReadAll(res.Body)
			if took := time.Since(begin); took != want || res.StatusCode != status || (err == nil) != whole {
				t.Errorf("%s: status %d, body %v after %v; want %d after %v", path, res.StatusCode, err, took, status,
					want)
			}
		}
		ask("/quick/slow", 500*time.Millisecond, 504, true)
		ask("/quick/drip", 2*time.Second, 200, false)
		ask("/plain/slow", 3*time.Second, 504, true)
		ask("/plain/drip", 8*time.Second, 200, false)
		ask("/long/slow", 10*time.Second, 504, true)
		ask("/long/drip?minute", time.Minute, 200, true)
		w.put("gateway.timeout.header", "1s")
		w.put("gateway.timeout.total", "4s")
		ask("/plain/slow", time.Second, 504, true)
		ask("/plain/drip", 4*time.Second, 200, false)
		ask("/quick/slow", 500*time.Millisecond, 504, true)
	})
}

// A line of the access log has the trace id of the request.
func TestAccessLogHasTheTraceID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		w.origin("web", "web-1", "", responds("ok"))
		res := w.get("http://x/films", "Traceparent", "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01",
			"X-Request-Id", "r-1")
		if res.StatusCode != http.StatusOK {
			t.Fatalf("got %s", res.Status)
		}
		synctest.Wait() // the line is written after the answer
		lines := 0
		for line := range strings.SplitSeq(w.log.String(), "\n") {
			var entry struct {
				Msg, Method, Path, Route, Called, By, Client string
				Status                                       int
				TraceID                                      string `json:"trace_id"`
				RequestID                                    string `json:"request_id"`
			}
			if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "request" {
				continue
			}
			lines++
			if entry.TraceID != "463ac35c9f6413ad48485a3953bb6124" || entry.RequestID != "r-1" ||
				entry.Path != "/films" || entry.Method != "GET" || entry.Status != 200 || entry.Route != "web" ||
				entry.Called != "web" || entry.By != "web-1" ||
				entry.Client != "client" {
				t.Errorf("the access log has %s", line)
			}
		}
		if lines != 1 {
			t.Errorf("the access log has %d lines for one request, want 1", lines)
		}
	})
}
