package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

// mirroring is a route with a mirror.
func mirroring(mirror string) string {
	return `[{"name":"web","match":{"prefix":"/app"},"rewrite":{"prefix":"/v2"},"to":[{"service":"web"}],
		"headers":{"request":{"set":{"X-Own":"{path}"}},"response":{"set":{"X-Route":"1"}}},
		"mirror":{"to":{"service":"shadow"}` + mirror + `}}]`
}

// shadow adds the target of a mirror, whose requests come in a channel.
func (w *world) shadow() <-chan string {
	copies := make(chan string, 100)
	w.origin("shadow", "shadow-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		copies <- fmt.Sprintf("%s %s %s %s %s %q %v", r.Method, r.RequestURI, r.Header.Get("X-Own"),
			r.Header.Get("X-Bijou-Mirror"), r.Header.Get("X-Forwarded-For"), body, err)
		rw.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(rw, "of the shadow") // the edge may be closed
	}))
	return copies
}

func TestCopiesOfRequestsAreSentToTheMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, mirroring(``))
		copies := w.shadow()
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(rw, "%s %s %q %v %q", r.Method, r.RequestURI, body, err, r.Header.Get("X-Bijou-Mirror"))
		}))
		long := strings.Repeat("x", 64<<10)
		for _, h2 := range []bool{false, true} {
			for _, c := range []struct {
				method string
				body   io.Reader
				want   string
			}{
				{"GET", nil, ""},
				{"POST", strings.NewReader("abc"), "abc"},
				{"PUT", strings.NewReader(long), long},
				{"POST", io.MultiReader(strings.NewReader("of unknown length")), "of unknown length"},
				{"DELETE", nil, ""},
			} {
				res := w.do(w.client(h2), c.method, "http://x/app/a?b=c", c.body, "X-Bijou-Mirror", "forged")
				if want := fmt.Sprintf(`%s /v2/a?b=c %q <nil> ""`, c.method, c.want); res.StatusCode != 200 || res.body != want ||
					res.Header.Get("X-Route") != "1" {
					t.Errorf("HTTP/2 %t, %s: got %d %.80s, want the response of the origin", h2, c.method, res.StatusCode, res.body)
				}
				if got, want := <-copies, fmt.Sprintf("%s /v2/a?b=c /app/a web client %q <nil>", c.method, c.want); got != want {
					t.Errorf("HTTP/2 %t: the mirror got %.100s, want %.100s", h2, got, want)
				}
			}
		}
		synctest.Wait() // the copies have been answered
		w.edge.Close()
		if got := w.metric("bijou_gateway_mirrored_total", "route=web", "result=ok"); got != 10 {
			t.Errorf("bijou_gateway_mirrored_total has %v copies that were sent, want 10", got)
		}
		if got := w.metric("bijou_gateway_requests_total"); got != 10 {
			t.Errorf("bijou_gateway_requests_total is %v, want 10 without the copies", got)
		}
	})
}

// A mirror that hangs delays nothing. What is more than may be in progress is dropped and counted, and a stop does not
// wait.
func TestAMirrorThatHangsDelaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, mirroring(`,"concurrency":3`), "gateway.timeout.header", "1h", "gateway.timeout.total", "0s")
		w.origin("web", "web-1", "", responds("ok"))
		w.origin("shadow", "shadow-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // else the context does not end
			<-r.Context().Done()
		}))
		begin := time.Now()
		c := w.client(false)
		for range 10 {
			if res := w.do(c, http.MethodPost, "http://x/app", strings.NewReader("abc")); res.body != "ok" {
				t.Fatalf("got %d %q, want ok", res.StatusCode, res.body)
			}
		}
		if took := time.Since(begin); took > 0 {
			t.Errorf("ten requests took %v, want no time", took)
		}
		if got := w.metric("bijou_gateway_mirrored_total", "result=busy"); got != 7 {
			t.Errorf("%v copies were dropped because others are in progress, want 7", got)
		}
		time.Sleep(6 * time.Minute) // whatever the times of the route are
		if got := w.metric("bijou_gateway_mirrored_total", "result=failed"); got != 3 {
			t.Errorf("%v copies have failed after six minutes, want 3", got)
		}
		begin = time.Now()
		w.do(c, http.MethodPost, "http://x/app", strings.NewReader("abc"))
		if err := w.edge.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("a stop with a copy in progress took %v, want less than a second", took)
		}
	})
}

// A mirror that fails does not open the circuit of the route, and nothing of it is in the response.
func TestAMirrorThatFailsIsNotNoticed(t *testing.T) {
	w := newWorld(t, mirroring(``), "gateway.debug", "true")
	w.origin("web", "web-1", "", responds("ok"))
	w.register("shadow", "shadow-1", "", "shadow-1:80") // refuses connections
	c := w.client(false)
	for range 100 {
		res := w.do(c, http.MethodGet, "http://x/app", nil)
		if res.StatusCode != 200 || res.body != "ok" || strings.Contains(res.Header.Get("X-Bijou-Attempts"), "shadow") {
			t.Fatalf("got %d %q %v, want ok", res.StatusCode, res.body, res.Header)
		}
	}
	w.edge.Close()
	if got := w.metric("bijou_gateway_mirrored_total", "result=failed") + w.metric("bijou_gateway_mirrored_total",
		"result=busy"); got != 100 {
		t.Errorf("%v copies have failed or were dropped, want 100", got)
	}
}

func TestBodiesThatAreTooLongAreNotCopied(t *testing.T) {
	w := newWorld(t, mirroring(`,"maxBody":1000`))
	copies := w.shadow()
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(rw, n, err) // a client that left fails the test itself
	}))
	for _, size := range []int{1001, 300_000} {
		text := strings.Repeat("x", size)
		for name, body := range map[string]io.Reader{
			"known": strings.NewReader(text), "unknown": io.MultiReader(strings.NewReader(text)),
		} {
			if res := w.do(w.client(false), http.MethodPost, "http://x/app", body); res.body != fmt.Sprint(size, nil) {
				t.Errorf("%d bytes of %s length: the origin got %s", size, name, res.body)
			}
		}
	}
	if got := w.metric("bijou_gateway_mirrored_total", "result=body"); got != 4 {
		t.Errorf("%v copies were dropped because of their body, want 4", got)
	}
	w.do(w.client(false), http.MethodPost, "http://x/app", strings.NewReader("short"))
	if got := <-copies; !strings.Contains(got, `"short"`) || len(copies) > 0 {
		t.Errorf("the mirror got %s, want only the short body", got)
	}
}

func TestAShareOfTheRequestsIsCopied(t *testing.T) {
	w := newWorld(t, mirroring(`,"share":1e-12`))
	copies := w.shadow()
	w.origin("web", "web-1", "", responds("ok"))
	c := w.client(false)
	for range 50 {
		w.do(c, http.MethodGet, "http://x/app", nil)
	}
	w.edge.Close()
	if len(copies) > 0 || w.metric("bijou_gateway_mirrored_total") > 0 {
		t.Errorf("the mirror got %d requests, want none", len(copies))
	}
}

func TestCallsAreCopiedAndUpgradesAreNot(t *testing.T) {
	w := newWorld(t, `[{"name":"calls","match":{"prefix":"/test.v1.Calls"},"to":[{"service":"calls","endpoint":"grpc"}],
			"mirror":{"to":{"service":"shadow","endpoint":"grpc"}}},
		{"name":"web","to":[{"service":"web"}],"mirror":{"to":{"service":"shadow"}}}]`)
	copies := w.shadow()
	w.grpcOrigin("calls", "calls-1")
	w.origin("web", "web-1", "", http.HandlerFunc(switches))
	out := new(wrapperspb.StringValue)
	if err := w.grpcClient().Invoke(t.Context(), "/test.v1.Calls/Echo", wrapperspb.String("hi"), out); err != nil ||
		out.GetValue() != "hi" {
		t.Fatalf("got %q, %v; want hi", out.GetValue(), err)
	}
	if got := <-copies; !strings.HasPrefix(got, "POST /test.v1.Calls/Echo") || !strings.Contains(got, "\\x02hi") {
		t.Errorf("the mirror got %s, want the call with its message", got)
	}
	conn, r, res := w.switchTo("GET", "/", "websocket")
	read(t, r, "GET ")
	conn.Close()
	w.edge.Close()
	if res.StatusCode != 101 || len(copies) > 0 {
		t.Errorf("got %d, and the mirror got %d requests; want 101 and none", res.StatusCode, len(copies))
	}
}
