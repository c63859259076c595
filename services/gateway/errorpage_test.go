package gateway_test

import (
	"net/http"
	"strings"
	"testing"
)

const (
	ownPages = `[{"host": "*.example.org", "html": "<style>p{margin:0}</style><p>Sorry: {status} {title}, {id}, {trace}"},
		{"host": "www.example.org", "status": [404], "html": "<p>Not in this shop"}]`
	shopRoutes = `[{"name":"shop","match":{"prefix":"/shop"},"to":[{"service":"shop"}]},
		{"name":"small","match":{"prefix":"/small"},"to":[{"service":"shop"}],"maxBody":1}]`
)

func TestErrorPagesOfAHost(t *testing.T) {
	w := newWorld(t, shopRoutes, "gateway.errorPages", ownPages)
	const browser = "text/html,application/xhtml+xml,*/*;q=0.8"
	for _, h2 := range []bool{false, true} {
		c := w.client(h2)
		for _, r := range []struct{ url, accept, want string }{
			{"http://a.example.org/shop", browser, "<style>p{margin:0}</style><p>Sorry: 503 Service Unavailable, my-id, "},
			{"http://a.example.org/", browser, "<style>p{margin:0}</style><p>Sorry: 404 Not Found, my-id, "},
			{"http://www.example.org/", browser, "<p>Not in this shop"},
			{"http://www.example.org:80/", browser, "<p>Not in this shop"},
			{"http://other.example/", browser, "<!doctype html>"},
			{"http://a.example.org/", "", `{"type":"about:blank"`},
			{"http://a.example.org/", "application/json", `{"type":"about:blank"`},
		} {
			header := []string{"X-Request-Id", "my-id"}
			if r.accept != "" {
				header = append(header, "Accept", r.accept)
			}
			res := w.do(c, http.MethodGet, r.url, nil, header...)
			if !strings.HasPrefix(res.body, r.want) {
				t.Errorf("HTTP/2 %t, %s, Accept %q: got %.150q, want it to begin with %q", h2, r.url, r.accept, res.body, r.want)
			}
			if res.Header.Get("X-Bijou-Fault") == "" || res.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: the header is %v, want a fault and no-store", r.url, res.Header)
			}
			if policy := res.Header.Get("Content-Security-Policy"); strings.HasPrefix(r.want, "<") &&
				(!strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "script")) {
				t.Errorf("%s: the policy is %q, want one without scripts", r.url, policy)
			}
			head := w.do(c, http.MethodHead, r.url, nil, header...)
			if head.StatusCode != res.StatusCode || head.body != "" || head.Header.Get("Content-Type") !=
				res.Header.Get("Content-Type") {
				t.Errorf("HEAD %s: got %d, %q, %v; want the header of GET", r.url, head.StatusCode, head.body, head.Header)
			}
		}
	}
	if res := w.do(w.client(false), http.MethodPost, "http://a.example.org/small", strings.NewReader("long"), "Accept",
		browser); res.StatusCode != 413 || !strings.HasPrefix(res.body, "<style>p{margin:0}</style><p>Sorry: 413") {
		t.Errorf("a long body: got %d %q, want 413 and the page", res.StatusCode, res.body)
	}
}

// A page has only what is asked for: no name of a service, which the details of a failure have.
func TestErrorPagesTellNothingElse(t *testing.T) {
	w := newWorld(t, shopRoutes, "gateway.errorPages", `[{"html": "{status}|{title}|{id}|{trace}"}]`)
	res := w.get("http://x/shop", "Accept", "text/html", "X-Request-Id", "my-id")
	parts := strings.Split(res.body, "|")
	if len(parts) != 4 || parts[0] != "503" || parts[1] != "Service Unavailable" || parts[2] != "my-id" ||
		len(parts[3]) != 32 {
		t.Errorf("got %q, want the status, its text, my-id and a trace id", res.body)
	}
	if res := w.get("http://x/shop", "Accept", "text/html", "X-Request-Id", "<script>"); strings.Contains(res.body,
		"script") {
		t.Errorf("got %q, want an id of the edge", res.body)
	}
}

func TestErrorPagesAreNotForGRPCNorForOrigins(t *testing.T) {
	w := newWorld(t, shopRoutes, "gateway.errorPages", `[{"html": "own"}]`)
	res := w.do(w.client(true), http.MethodPost, "http://x/shop", nil, "Content-Type", "application/grpc", "Te",
		"trailers", "Accept", "text/html")
	if res.StatusCode != 200 || res.Header.Get("Grpc-Status") != "14" || res.body != "" {
		t.Errorf("gRPC: got %d, status %q, %q; want 200 and UNAVAILABLE", res.StatusCode, res.Header.Get("Grpc-Status"),
			res.body)
	}
	w.origin("shop", "shop-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "of the origin", http.StatusInternalServerError)
	}))
	if res := w.get("http://x/shop", "Accept", "text/html"); res.body != "of the origin\n" {
		t.Errorf("a failure of the origin: got %q, want it unchanged", res.body)
	}
}

func TestErrorPagesAreLive(t *testing.T) {
	w := newWorld(t, "[]")
	page := func() string { return w.get("http://x/", "Accept", "text/html").body }
	if got := page(); !strings.Contains(got, "There is no such page here.") {
		t.Errorf("without the setting: got %q, want the page of the edge", got)
	}
	w.put("gateway.errorPages", `[{"html": "one"}]`)
	if got := page(); got != "one" {
		t.Errorf("got %q, want one", got)
	}
	if err := w.set.Put("gateway.errorPages", `[{"html": "{secret}"}]`); err == nil ||
		!strings.Contains(err.Error(), "html") {
		t.Errorf("an unknown placeholder: error %v, want one that names html", err)
	}
	w.put("gateway.errorPages", `[]`)
	if got := page(); !strings.Contains(got, "There is no such page here.") {
		t.Errorf("after the pages were removed: got %q, want the page of the edge", got)
	}
}
