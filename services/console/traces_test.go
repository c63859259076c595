package console_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

func TestTraceQueriesArePassedToTheTraceStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.runTracing(t, "tracing", func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/0af8") {
				http.NotFound(rw, r)
				return
			}
			rw.Header().Set("Bijou-Incomplete", "true")
			rw.Header().Set("X-Internal", "1")
			fmt.Fprintf(rw, `{"asked":%q}`, r.URL.RequestURI())
		})
		w.awaitListed(t)
		code, header, text := w.do(t, "GET", "/api/traces/trace/0af7?x=1", "")
		var got struct{ Asked string }
		if decode(t, text, &got); code != http.StatusOK || got.Asked != "/api/v2/trace/0af7?x=1" {
			t.Errorf("status %d, the trace store was asked %q; want 200 and /api/v2/trace/0af7?x=1", code, got.Asked)
		}
		if header.Get("Bijou-Incomplete") != "true" || header.Get("X-Internal") != "" {
			t.Errorf("the header is %v, want Bijou-Incomplete of the trace store and not X-Internal", header)
		}
		for _, path := range []string{"trace/0af8", "metrics", ""} {
			if code, _, text = w.do(t, "GET", "/api/traces/"+path, ""); code != http.StatusNotFound {
				t.Errorf("GET /api/traces/%s: status %d, %s; want 404", path, code, text)
			}
		}
	})
}

func TestTraceStoreThatDoesNotAnswerIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.register("tracing", "tracing-9", map[string]string{"zipkin": "nowhere:9411"})
		w.awaitListed(t)
		code, _, text := w.do(t, "GET", "/api/traces/services", "")
		want := "the trace store does not answer: tracing-9"
		if code != http.StatusServiceUnavailable || !strings.Contains(text, want) {
			t.Errorf("status %d, want 503 that names tracing-9: %s", code, text)
		}
		assertPlain(t, "the problem", text)
	})
}

func TestOtherInstanceOfTheTraceStoreIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.register("tracing", "tracing-9", map[string]string{"zipkin": "nowhere:9411"})
		w.runTracing(t, "tracing-b", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "not JSON") })
		w.runTracing(t, "tracing-c", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, `["web"]`) })
		w.awaitListed(t)
		for range 20 { // the order is random
			if code, _, text := w.do(t, "GET", "/api/traces/services", ""); code != http.StatusOK ||
				!strings.Contains(text, "web") {
				t.Fatalf("status %d, %s; want 200 and the answer of tracing-c", code, text)
			}
		}
	})
}

func TestErrorsOfTheTraceStore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		says   string
	}{
		{
			"wrong query", func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Type", "application/problem+json")
				rw.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(rw, `{"detail":"limit must be a number"}`)
			}, http.StatusBadRequest, "limit must be a number",
		},
		{
			"answer that is not JSON", func(rw http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(rw, "<html>")
			}, http.StatusServiceUnavailable, "not JSON",
		},
		{
			"answer that is too large", func(rw http.ResponseWriter, _ *http.Request) {
				chunk := `"` + strings.Repeat("x", 1<<20) + `",`
				fmt.Fprint(rw, "[", strings.Repeat(chunk, 16), "1]")
			}, http.StatusBadRequest, "more than 16 MiB; ask for fewer traces",
		},
		{
			"connection that ends early", func(http.ResponseWriter, *http.Request) {
				panic(http.ErrAbortHandler)
			}, http.StatusServiceUnavailable, "tracing-1 closed the connection before it answered",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newPlatform(t)
				w.runTracing(t, "tracing", tt.answer)
				w.awaitListed(t)
				code, h, text := w.do(t, "GET", "/api/traces/traces", "")
				if kind := h.Get("Content-Type"); code != tt.status || kind != "application/problem+json" ||
					!strings.Contains(text, tt.says) {
					t.Errorf("status %d, Content-Type %s, %.500s; want %d and a problem with %q",
						code, kind, text, tt.status, tt.says)
				}
				assertPlain(t, "the problem", text)
			})
		})
	}
}
