package gateway_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"strings"
	"testing"

	"bijou.dev/services/gateway"
)

const pathModes = `[
	{"name":"store","match":{"prefix":"/s3"},"path":"raw","to":[{"service":"store"}]},
	{"name":"moved","match":{"prefix":"/moved"},"path":"raw","rewrite":{"prefix":"/bucket"},"to":[{"service":"store"}]},
	{"name":"root","match":{"prefix":"/root/"},"path":"raw","rewrite":{"prefix":"/"},"to":[{"service":"store"}]},
	{"name":"files","match":{"prefix":"/files"},"path":"normalize","to":[{"service":"files"}]},
	{"name":"web","to":[{"service":"web"}]}]`

// What each mode of a route does with a path of more than one meaning. An empty want: it is refused with 400.
func TestPathModes(t *testing.T) {
	w := newWorld(t, pathModes)
	for _, name := range []string{"store", "files", "web"} {
		w.origin(name, name+"-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("X-Read", name+" "+r.RequestURI)
		}))
	}
	for _, c := range []struct{ path, want string }{
		// by default
		{"/a//b", ""},
		{"/a/../b", ""},
		{"/a%2Fb", ""},
		{"/a/..;/b", ""},

		// raw: as it came
		{"/s3/a//b", "store /s3/a//b"},
		{"/s3//", "store /s3//"},
		{"/s3/a%2Fb%2fc?d=/../e", "store /s3/a%2Fb%2fc?d=/../e"},
		{"/s3/a/./b/../c", "store /s3/a/./b/../c"},
		{"/s3/a/%2e%2E/b", "store /s3/a/%2e%2E/b"},
		{"/s3/a%5Cb", "store /s3/a%5Cb"},
		{"/s3/a/..;x/b", "store /s3/a/..;x/b"},
		{"/s3/%C3%A9//%20", "store /s3/%C3%A9//%20"},
		// raw: it leads to another route for some servers
		{"/s3/../a", ""},
		{"/s3/a/../../b", ""},
		{"/s3/%2e%2e/a", ""},
		{"/s3/..%2fa", ""},
		{"/s3/a%2f..%2f..%2fb", ""},
		{"/s3/..%5cb", ""},
		{"/s3/..;x/b", ""},
		{"/s3/%252e%252e%252fb", "store /s3/%252e%252e%252fb"}, // has one meaning: no server decodes twice
		{"/s3/a//%252e%252e/%252e%252e/b", ""},                 // but with other ambiguity it is not trusted
		{"/s3%2Fa", ""},
		{"//s3/a", ""},
		{"/a/../s3/b", ""},
		{"/s3/../s3/a", "store /s3/../s3/a"}, // the same route for all

		// raw with a new prefix: nothing leaves the new prefix
		{"/moved/a//b", "store /bucket/a//b"},
		{"/moved//a", "store /bucket//a"},
		{"/moved/../moved/a", ""},
		{"/root/a//b", "store /a//b"},
		{"/root//a", "store //a"},

		// normalize
		{"/files/a//b/./c/../d", "files /files/a/b/d"},
		{"/files/a%2Fb", "files /files/a/b"},
		{"/files/a/%2e%2e/b%20c", "files /files/b%20c"},
		{"/files/a/..", "files /files/"},
		{"//x/..//files/a", "files /files/a"},
		{"/files/a%5Cb", ""},
		{"/files/a/..;x/b", ""},
		{"/files/../a", ""},    // leads to web, which refuses
		{"/files/../s3/a", ""}, // some servers read another path of store than others
		{"/s3/../files/a", "files /files/a"},

		// never
		{"/s3/a%00b", ""},
		{"/s3//%0a", ""},
		{"/s3//%zz", ""},
		{`/s3//\`, ""},
		{"/files//%0d", ""},
	} {
		status, headers := w.raw("GET " + c.path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		switch {
		case len(status) != 1:
			t.Errorf("%s got %d responses, want one", c.path, len(status))
		case c.want == "" && status[0] != http.StatusBadRequest:
			t.Errorf("%s got %d, and %q; want 400", c.path, status[0], headers[0].Get("X-Read"))
		case c.want != "" && headers[0].Get("X-Read") != c.want:
			t.Errorf("%s got %d, and the origin has read %q; want %q", c.path, status[0], headers[0].Get("X-Read"), c.want)
		}
	}
}

// readers are servers that tell whether they read a path below /s3 in a request: then they answer 410, else 404.
var readers = map[string]func(t *testing.T) (addr string){
	"nginx":   func(t *testing.T) string { return newBackend(t, "nginx, paths").addr },
	"apache2": func(t *testing.T) string { return newBackend(t, "apache2, paths").addr },
	"a server that cleans paths": func(t *testing.T) string {
		return newReader(t, func(r *http.Request) string { return path.Clean(r.URL.Path) })
	},
	"a server with parameters in paths": func(t *testing.T) string {
		return newReader(t, func(r *http.Request) string {
			segments := strings.Split(r.URL.Path, "/")
			for i := range segments {
				segments[i], _, _ = strings.Cut(segments[i], ";")
			}
			return path.Clean(strings.Join(segments, "/"))
		})
	},
	"a server with backslashes": func(t *testing.T) string {
		return newReader(t, func(r *http.Request) string { return path.Clean(strings.ReplaceAll(r.URL.Path, `\`, "/")) })
	},
	"a server that does not read escaped slashes": func(t *testing.T) string {
		return newReader(t, func(r *http.Request) string { return path.Clean(r.URL.EscapedPath()) })
	},
}

func newReader(t *testing.T, read func(r *http.Request) string) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if p := read(r); p == "/s3" || strings.HasPrefix(p, "/s3/") {
			rw.WriteHeader(http.StatusGone)
		} else {
			rw.WriteHeader(http.StatusNotFound)
		}
	})})
	return l.Addr().String()
}

// randomPath returns a path below /s3 of pieces that servers read in different ways.
func randomPath(r *rand.Rand) string {
	pieces := []string{
		"/", "/", "//", "/.", "/..", "/..", "..", ".", "/%2e%2E", "%2F", "%2f..", "%5C", "%5c..", ";x", "/..;", "a", "/a/b",
		"/s3", "%252e", "%252F", "/é",
	}
	var b strings.Builder
	b.WriteString("/s3")
	for range 1 + r.IntN(7) {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	return b.String()
}

// Whatever a server reads in a path: what the edge sends it by a raw route is below the route's prefix.
func TestRawPathsStayInTheirRoute(t *testing.T) {
	const seed = 1
	for name, start := range readers {
		t.Run(name, func(t *testing.T) {
			addr := start(t)
			w := worldWith(t, gateway.EdgeOptions{DialContext: (&net.Dialer{}).DialContext}, `[
				{"name":"store","match":{"prefix":"/s3"},"path":"raw","to":[{"service":"store"}]},
				{"name":"web","match":{"prefix":"/"},"to":[{"service":"web"}]}]`)
			w.register("store", "store-1", "", addr)
			client, r := w.dial(), rand.New(rand.NewPCG(seed, 0))
			in := bufio.NewReader(client)
			inside, refused, escapedWithoutEdge := 0, 0, 0
			for range 400 {
				p := randomPath(r)
				if direct(t, addr, p) == http.StatusNotFound {
					escapedWithoutEdge++
				}
				if client == nil {
					client = w.dial()
					in = bufio.NewReader(client)
				}
				fmt.Fprintf(client, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", p)
				res, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatalf("%s: %v", p, err)
				}
				res.Body.Close()
				switch {
				case res.Header.Get("X-Bijou-Fault") != "":
					refused++
				case res.StatusCode == http.StatusNotFound:
					t.Errorf("%s was sent, and the server reads a path outside of /s3", p)
				case res.StatusCode == http.StatusGone:
					inside++
				}
				if res.Close || res.ContentLength != 0 {
					client.Close()
					client = nil
				}
			}
			t.Logf("seed %d: %d sent and inside, %d refused, %d outside without the edge", seed, inside, refused,
				escapedWithoutEdge)
			if inside < 20 || escapedWithoutEdge < 20 {
				t.Errorf("%d paths were sent, and %d lead outside without the edge: too few to show anything", inside,
					escapedWithoutEdge)
			}
		})
	}
}

// direct returns the status of the server itself.
func direct(t *testing.T, addr, path string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}
