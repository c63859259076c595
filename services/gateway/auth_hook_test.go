package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
)

// hooked is a route whose callers a hook knows.
const hooked = `"methods":[{"hook":{"url":"http://hook:80/verify","claims":{"sub":"Remote-User","groups":"Remote-Groups"},
	"timeout":"2s"}}],"claims":{"sub":"X-User","groups":"X-Groups"}`

// hookWorld is authWorld with a hook that answers with h.
func hookWorld(t testing.TB, routes string, h http.HandlerFunc) *world {
	t.Helper()
	w := authWorld(t, newIdentityProvider(), routes)
	w.at("hook:80", h)
	return w
}

func TestHookLetsRequestsPass(t *testing.T) {
	var asked atomic.Pointer[http.Request]
	w := hookWorld(t, protected(hooked), func(rw http.ResponseWriter, r *http.Request) {
		asked.Store(r)
		rw.Header().Set("Remote-User", "ann")
		rw.Header().Add("Remote-Groups", "staff, it")
		rw.Header().Add("Remote-Groups", "dev")
		rw.Header().Set("X-Other", "not for the origin")
		rw.Header().Add("Set-Cookie", "session=2; HttpOnly")
		rw.WriteHeader(http.StatusNoContent)
	})
	res := w.do(w.client(false), http.MethodPost, "http://x/a?b=c", strings.NewReader("body"), "X-User", "root",
		"Cookie", "session=1", "Accept", "text/html", "If-None-Match", `"a"`, "X-Forwarded-User", "root",
		"Range", "bytes=0-1", "Accept-Encoding", "gzip", "User-Agent", "test")
	if want := "Cookie=session=1\nX-Groups=staff,it,dev\nX-User=ann\n"; res.StatusCode != 200 || res.body != want {
		t.Errorf("%d %q, want 200 %q", res.StatusCode, res.body, want)
	}
	if got := res.Header.Get("Set-Cookie"); got != "session=2; HttpOnly" {
		t.Errorf("the client got the cookie %q, want that of the hook", got)
	}
	r := asked.Load()
	for name, want := range map[string]string{
		"X-Forwarded-Method": "POST", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "x", "X-Forwarded-Uri": "/a?b=c",
		"Cookie": "session=1", "Accept": "text/html", "User-Agent": "test", "X-User": "root",
		"If-None-Match": "", "X-Forwarded-User": "", "Range": "", "Accept-Encoding": "", "Content-Length": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("the hook got %s: %q, want %q", name, got, want)
		}
	}
	if r.Method != http.MethodGet || r.RequestURI != "/verify" || r.Header.Get("X-Request-Id") == "" ||
		r.ContentLength != 0 {
		t.Errorf("the hook got %s %s, %v", r.Method, r.RequestURI, r.Header)
	}
}

func TestHookAnswersClients(t *testing.T) {
	w := hookWorld(t, protected(hooked), func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		h.Set("X-Bijou-Fault", "origin_error")
		h.Set("Connection", "X-Secret")
		h.Set("X-Secret", "1")
		switch r.Header.Get("X-Forwarded-Uri") {
		case "/login":
			h.Set("Location", "https://login.example.org/?rd=/login")
			h.Set("Set-Cookie", "state=1")
			rw.WriteHeader(http.StatusFound)
		case "/401":
			h.Set("WWW-Authenticate", `Basic realm="hook"`)
			rw.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(rw, "who are you?")
		case "/403":
			rw.WriteHeader(http.StatusForbidden)
		case "/304":
			rw.WriteHeader(http.StatusNotModified)
		case "/large":
			rw.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(rw, strings.Repeat("x", 64<<10+1))
		default:
			rw.WriteHeader(http.StatusInternalServerError)
		}
	})
	for path, want := range map[string]struct {
		status             int
		fault, field, body string
	}{
		"/login": {302, "", "https://login.example.org/?rd=/login state=1", ""},
		"/401":   {401, "client", `Basic realm="hook"`, "who are you?"},
		"/403":   {403, "client", "", ""},
		"/304":   {503, "auth_unavailable", "", "the hook answered with the status 304"},
		"/500":   {503, "auth_unavailable", "", "the hook answered with the status 500"},
		"/large": {503, "auth_unavailable", "", "more than 65536 bytes"},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			res := w.do(w.client(false), method, "http://x"+path, nil, "Accept", "application/json")
			h := res.Header
			fields := strings.TrimSpace(h.Get("Location") + h.Get("WWW-Authenticate") + " " + h.Get("Set-Cookie"))
			if res.StatusCode != want.status || h.Get("X-Bijou-Fault") != want.fault || fields != want.field ||
				method == "GET" && !strings.Contains(res.body, want.body) || h.Get("X-Secret") != "" {
				t.Errorf("%s %s: %d %q, %v; want %+v", method, path, res.StatusCode, res.body, h, want)
			}
		}
	}
}

// A hook that hangs, breaks off or is not there lets nothing pass, unless the route says so.
func TestHookThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name string
			h    http.HandlerFunc // nil: nobody listens
		}{
			{"hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
			{"breaks off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
			{"large header", func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("A", strings.Repeat("x", 64<<10))
			}},
			{"is not there", nil},
		} {
			for _, open := range []bool{false, true} {
				w := authWorld(t, newIdentityProvider(), protected(strings.Replace(hooked, `"timeout"`,
					fmt.Sprintf(`"failOpen":%t,"timeout"`, open), 1)))
				if c.h != nil {
					w.at("hook:80", c.h)
				}
				begin := time.Now()
				res := w.get("http://x/", "X-User", "root", "Accept", "application/json")
				took := time.Since(begin)
				switch {
				case took > 2*time.Second:
					t.Errorf("%s: the answer took %v, want at most 2s", c.name, took)
				case open && (res.StatusCode != 200 || res.body != ""):
					t.Errorf("%s, failOpen: %d %q, want 200 and an unknown caller", c.name, res.StatusCode, res.body)
				case !open && (res.StatusCode != 503 || res.Header.Get("X-Bijou-Fault") != "auth_unavailable" ||
					strings.Contains(res.body, "hook:80")):
					t.Errorf("%s: %d %q, want 503 without the address of the hook", c.name, res.StatusCode, res.body)
				}
			}
		}
	})
}

// The hook of a route that has a token, too, is asked only for requests without a good one, and rules hold for callers
// that the hook knows.
func TestHookBesideOtherMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIdentityProvider()
		w := authWorld(t, p, protected(`"methods":[`+jwtMethod+`,{"hook":{"url":"http://hook:80/",
			"claims":{"sub":"Remote-User"}}}],"claims":{"sub":"X-User"},"allow":[{"claims":{"sub":["ann","bob"]}}]`))
		asked := 0
		w.at("hook:80", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			asked++
			if name := r.Header.Get("X-Name"); name != "" {
				rw.Header().Set("Remote-User", name)
			} else {
				rw.WriteHeader(http.StatusForbidden)
			}
		}))
		for _, c := range []struct {
			header []string
			want   string
			asked  int
		}{
			{[]string{"Authorization", "Bearer " + p.token(t, `"sub":"ann"`)}, "200 X-User=ann\n", 0},
			{[]string{"X-Name", "bob"}, "200 X-User=bob\n", 1},
			{[]string{"Authorization", "Bearer abc", "X-Name", "bob"}, "200 X-User=bob\n", 2},
			{[]string{"X-Name", "eve"}, "403 ", 3},
			{nil, "403 ", 4},
		} {
			res := w.get("http://x/", c.header...)
			if got := fmt.Sprint(res.StatusCode, " ", res.body); !strings.HasPrefix(got, c.want) || asked != c.asked {
				t.Errorf("%v: %q, the hook was asked %d times; want %q, %d", c.header, got, asked, c.want, c.asked)
			}
		}
	})
}

// A table without the hook does not disturb the requests that wait for it.
func TestHookIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := hookWorld(t, protected(hooked), func(rw http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			rw.Header().Set("Remote-User", "ann")
		})
		done := make(chan answer)
		go func() { done <- w.get("http://x/") }()
		synctest.Wait()
		w.put("gateway.routes", toWeb)
		if res := <-done; res.StatusCode != 200 || res.body != "X-User=ann\n" {
			t.Errorf("%d %q, want that the request finishes with its table", res.StatusCode, res.body)
		}
	})
}

// The number of requests that wait for a hook is bounded.
func TestManyRequestsWaitForAHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := hookWorld(t, protected(strings.Replace(hooked, `"2s"`, `"10s"`, 1)), func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		})
		statuses := make(chan int, 600)
		c := w.client(true)
		for range 600 {
			go func() { statuses <- w.do(c, "GET", "http://x/", nil).StatusCode }()
		}
		synctest.Wait()
		if n := len(statuses); n != 88 {
			t.Errorf("%d of 600 requests were refused at once, want 88", n)
		}
		for range 600 {
			if got := <-statuses; got != 503 {
				t.Errorf("status %d, want 503", got)
			}
		}
	})
}

func BenchmarkHook(b *testing.B) {
	hook := listen(b, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Remote-User", "ann")
	}))
	w := worldWith(b, gateway.EdgeOptions{DialContext: (&net.Dialer{}).DialContext}, `[{"name":"a","respond":{},"auth":{
		"methods":[{"hook":{"url":"http://`+hook+`","claims":{"sub":"Remote-User"}}}]}}]`, "gateway.accessLog", "off")
	handle := gateway.Handler(w.edge, "/")
	b.ReportAllocs()
	for b.Loop() {
		handle()
	}
}
