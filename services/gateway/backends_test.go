package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bijou.dev/services/gateway"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
)

// capture is an origin that records complete requests. Behind another server it shows how that server has read them.
type capture struct {
	addr string
	mu   sync.Mutex
	seen []string
}

func newCapture(t *testing.T) *capture {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &capture{addr: l.Addr().String()}
	serve(t, l, &http.Server{Handler: w})
	return w
}

// ServeHTTP records the parts of a request that no proxy changes.
func (w *capture) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was cut off
	}
	var header []string
	for name, lines := range r.Header {
		switch name {
		case "Connection", "Content-Length", "Via", "X-Request-Id", "Traceparent", "Te", "User-Agent",
			"Accept-Encoding", "Trailer":
			continue
		}
		if !strings.HasPrefix(name, "X-Forwarded-") {
			for _, line := range lines {
				header = append(header, name+": "+line)
			}
		}
	}
	slices.Sort(header)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, fmt.Sprintf("%s %s of %s %q %q", r.Method, r.RequestURI, r.Host, header, body))
}

func (w *capture) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// backend is another HTTP server in front of a capture.
type backend struct {
	name    string
	addr    string
	capture *capture
}

// What configurations of one program have in common.
var (
	nginx   = []string{"nginx", "-p", "DIR", "-e", "stderr", "-c", "CONF"}
	apache2 = []string{"apache2", "-DFOREGROUND", "-f", "CONF"}
)

const (
	nginxConf = `
daemon off; master_process off; pid DIR/pid; error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path DIR/body; proxy_temp_path DIR/proxy;
  fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
`
	apacheConf = `
ServerRoot DIR
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
User www-data
Group www-data
ServerName x
Listen LISTEN
PidFile DIR/pid
Mutex posixsem
ErrorLog DIR/error.log
StartServers 1
`
)

var configs = map[string]struct {
	command []string // CONF is the file
	conf    string   // LISTEN, TO and DIR are replaced
}{
	"nginx": {nginx, nginxConf + `
  merge_slashes off; ignore_invalid_headers off; underscores_in_headers on;
  upstream up { server TO; keepalive 8; }
  server { listen LISTEN; location / {
    proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Connection "";
  } }
}`},
	"nginx, paths": {nginx, nginxConf + `
  server { listen LISTEN; location = /s3 { return 410; } location /s3/ { return 410; } location / { return 404; } }
}`},
	"haproxy": {[]string{"haproxy", "-db", "-f", "CONF"}, `
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend in
  bind LISTEN
  default_backend out
backend out
  server capture TO
`},
	"apache2": {apache2, apacheConf + `
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
AllowEncodedSlashes NoDecode
ProxyPreserveHost On
ProxyPass / http://TO/ nocanon
`},
	"apache2, paths": {apache2, apacheConf + `
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
AllowEncodedSlashes On
Redirect gone /s3
`},
}

// newBackend starts a server from a Debian package.
func newBackend(t *testing.T, name string) *backend {
	t.Helper()
	b := &backend{name: name, capture: newCapture(t)}
	b.addr = startProgram(t, configs[name].command, configs[name].conf, b.capture.addr)
	return b
}

// need skips the test without a file of a Debian package, and fails in CI.
func need(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Stat(file); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed; CI needs the packages nginx, libnginx-mod-stream, haproxy and apache2-bin", file)
	}
	t.Skipf("%s is not installed", file)
}

// startProgram starts a server from a Debian package in front of an address and returns where it listens.
func startProgram(t *testing.T, command []string, conf, to string) (addr string) {
	t.Helper()
	path, err := exec.LookPath(command[0])
	if err != nil {
		path = "/usr/sbin/" + command[0]
	}
	need(t, path)
	for range 5 { // another process may take the port first
		if addr := tryProgram(t, path, command[1:], conf, to); addr != "" {
			return addr
		}
	}
	t.Fatalf("%s does not start", command[0])
	return ""
}

// tryProgram returns the address of a program; empty: it has ended.
func tryProgram(t *testing.T, path string, args []string, conf, to string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "conf")
	fill := strings.NewReplacer("LISTEN", addr, "TO", to, "DIR", dir, "CONF", file)
	if err := os.WriteFile(file, []byte(fill.Replace(conf)), 0o600); err != nil {
		t.Fatal(err)
	}
	args = slices.Clone(args)
	for i := range args {
		args[i] = fill.Replace(args[i])
	}
	cmd := exec.Command(path, args...)
	var output lockedBuffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		select {
		case err := <-ended:
			t.Logf("%s: %v: %s", path, err, output.String())
			return ""
		case <-retry.C:
			if c, err := net.Dial("tcp", addr); err == nil {
				c.Close()
				t.Cleanup(func() {
					_ = cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
					<-ended
				})
				return addr
			}
		}
	}
}

// direct sends a message to the server itself.
func (b *backend) direct(t *testing.T, in string) []string {
	t.Helper()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, in)                              // it may close first
	_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond)) // it may wait for more
	_, _ = io.Copy(io.Discard, c)
	return b.capture.take()
}

// TestBackends sends every message through the edge to four kinds of server and compares the requests that they read:
// behind the edge all must read the same. A server may refuse a message that others accept. Without the edge they read
// some messages differently, which shows that the comparison can fail.
func TestBackends(t *testing.T) {
	plain := newCapture(t)
	backends := []*backend{{"go", plain.addr, plain}}
	for _, name := range []string{"nginx", "haproxy", "apache2"} {
		backends = append(backends, newBackend(t, name))
	}
	worlds := make([]*world, len(backends))
	for i, b := range backends {
		worlds[i] = worldWith(t, gateway.EdgeOptions{DialContext: (&net.Dialer{}).DialContext}, toWeb)
		worlds[i].register("web", b.name, "", b.addr)
	}
	differ, stricter, total := 0, 0, 0
	compare := func(name string, send func(w *world) (statuses []int)) {
		total++
		var want []string
		var wantStatus []int
		for i, b := range backends {
			status := send(worlds[i])
			worlds[i].get("http://x/probe") // bytes left on a connection to the back end would come before this
			got := b.capture.take()
			if i == 0 {
				want, wantStatus = got, status
				continue
			}
			missing := slices.Clone(want)
			extra := slices.DeleteFunc(slices.Clone(got), func(s string) bool {
				at := slices.Index(missing, s)
				if at >= 0 {
					missing = slices.Delete(missing, at, at+1)
				}
				return at >= 0
			})
			refusals := 0
			for k := range min(len(status), len(wantStatus)) {
				if status[k] >= 400 && wantStatus[k] < 400 {
					refusals++
				}
			}
			switch {
			case len(extra) == 0 && len(missing) == 0:
			case len(extra) == 0 && len(missing) <= refusals:
				stricter++
				t.Logf("%s: %s refuses it: %v", name, b.name, status)
			default:
				differ++
				t.Errorf("%s: %s read another message than Go (-Go +%s), statuses %v and %v:\n%s", name, b.name, b.name,
					wantStatus, status, cmp.Diff(want, got))
			}
		}
	}
	for section, list := range messages {
		for _, m := range list {
			compare(section+"/"+m.name, func(w *world) []int {
				statuses, _ := w.raw(m.in + ok + end)
				return statuses
			})
		}
	}
	for _, m := range downgrades {
		compare("HTTP/2/"+m.name, func(w *world) []int { return m.send(w) })
	}
	t.Logf("%d messages, %d differences, %d times a back end was stricter", total, differ, stricter)

	different := 0
	for _, section := range []string{"2.2 line ends", "6.1 transfer coding"} {
		for _, m := range messages[section] {
			var first []string
			for i, b := range backends {
				got := b.direct(t, m.in+ok+end)
				if i == 0 {
					first = got
				} else if !slices.Equal(first, got) {
					different++
					break
				}
			}
		}
	}
	t.Logf("without the edge, the back ends read %d messages of two sections differently", different)
	if different == 0 {
		t.Error("without the edge, the back ends read every message in the same way, so this test cannot fail")
	}
}

// downgrade is an HTTP/2 request that must have the same meaning in HTTP/1.
type downgrade struct {
	name   string
	fields []string // pairs; those that are missing of :method, :scheme, :authority and :path are added before
	body   string   // empty: none
	taken  bool     // else it is answered with 400, or the stream or the connection is ended
}

var downgrades = []downgrade{
	{"good", nil, "", true},
	{"good body", []string{":method", "POST", "content-length", "3"}, "abc", true},
	{"body without a length", []string{":method", "POST"}, "abc", true},
	{"body that is a request", []string{":method", "POST"}, inside, true},
	{"GET with a body that is a request", []string{"content-length", "35"}, inside, true},
	{"line end in a value", []string{"a", "b\r\nsmuggled: 1"}, "", false},
	{"LF in a value", []string{"a", "b\nsmuggled: 1"}, "", false},
	{"CR in a value", []string{"a", "b\rsmuggled: 1"}, "", false},
	{"NUL in a value", []string{"a", "b\x00"}, "", false},
	{"request in a value", []string{"a", "b\r\n\r\n" + inside}, "", false},
	{"line end in a name", []string{"a: b\r\nsmuggled", "1"}, "", false},
	{"colon in a name", []string{"transfer-encoding: chunked\r\na", "b"}, "", false},
	{"space in a name", []string{"a b", "c"}, "", false},
	{"empty name", []string{"", "c"}, "", false},
	{"capitals in a name", []string{"Transfer-Encoding", "chunked"}, "", false},
	{"space before a value", []string{"a", " b"}, "", false},
	{"tab after a value", []string{"a", "b\t"}, "", false},
	{"space within a value", []string{"a", "b c"}, "", true},
	{"empty value", []string{"a", ""}, "", true},
	{"underscore for dash", []string{"content_length", "3"}, "", false},
	{"line end in the path", []string{":path", "/a HTTP/1.1\r\nsmuggled: 1"}, "", false},
	{"space in the path", []string{":path", "/a HTTP/1.1"}, "", false},
	{"space in the query", []string{":path", "/a?b HTTP/1.1"}, "", false},
	{"fragment", []string{":path", "/a#b"}, "", false},
	{"absolute path", []string{":path", "http://y/a"}, "", false},
	{"two slashes", []string{":path", "//y/a"}, "", false},
	{"relative path", []string{":path", "a"}, "", false},
	{"empty path", []string{":path", ""}, "", false},
	{"asterisk", []string{":method", "OPTIONS", ":path", "*"}, "", true},
	{"asterisk with GET", []string{":path", "*"}, "", false},
	{"dots", []string{":path", "/a/../b"}, "", false},
	{"line end in the method", []string{":method", "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\nGET"}, "", false},
	{"space in the method", []string{":method", "GET /smuggled HTTP/1.1"}, "", false},
	{"empty method", []string{":method", ""}, "", false},
	{"line end in the authority", []string{":authority", "x\r\nsmuggled: 1"}, "", false},
	{"slash in the authority", []string{":authority", "x/y"}, "", false},
	{"user in the authority", []string{":authority", "u@x"}, "", false},
	{"space in the authority", []string{":authority", "x y"}, "", false},
	{"empty authority", []string{":authority", ""}, "", false},
	{"host without authority", []string{":authority", "", "host", "x"}, "", true},
	{"same host beside the authority", []string{"host", "x"}, "", true},
	{"other host beside the authority", []string{"host", "y"}, "", false},
	{"two hosts", []string{"host", "x", "host", "x"}, "", false},
	{"line end in the scheme", []string{":scheme", "http://x/ HTTP/1.1\r\nsmuggled: 1"}, "", false},
	{"scheme with a path", []string{":scheme", "http://y/?"}, "", false},
	{"transfer-encoding", []string{":method", "POST", "transfer-encoding", "chunked"}, "0\r\n\r\n" + inside, false},
	{"transfer-encoding identity", []string{"transfer-encoding", "identity"}, "", false},
	{"connection", []string{"connection", "close"}, "", false},
	{"keep-alive", []string{"keep-alive", "timeout=5"}, "", false},
	{"proxy-connection", []string{"proxy-connection", "close"}, "", false},
	{"upgrade", []string{"upgrade", "websocket"}, "", false},
	{"te gzip", []string{"te", "gzip"}, "", false},
	{"te trailers", []string{"te", "trailers"}, "", true},
	{"trailer", []string{"trailer", "x-t"}, "", true},
	{"expect", []string{":method", "POST", "expect", "100-continue"}, "abc", true},
	{"length too small", []string{":method", "POST", "content-length", "1"}, "abc", false},
	{"length too large", []string{":method", "POST", "content-length", "5"}, "abc", false},
	{"length without a body", []string{":method", "POST", "content-length", "5"}, "", false},
	{"two lengths", []string{":method", "POST", "content-length", "3", "content-length", "4"}, "abc", false},
	{"same length twice", []string{":method", "POST", "content-length", "3", "content-length", "3"}, "abc", false},
	{"plus length", []string{":method", "POST", "content-length", "+3"}, "abc", false},
	{"list of lengths", []string{":method", "POST", "content-length", "3, 3"}, "abc", false},
	{"length of letters", []string{":method", "POST", "content-length", "abc"}, "abc", false},
	{"length and NUL", []string{":method", "POST", "content-length", "3\x00"}, "abc", false},
	{"connect", []string{":method", "CONNECT"}, "", false},
	{"two paths", []string{":path", "/a", ":path", "/b"}, "", false},
	{"two authorities", []string{":authority", "x", ":authority", "y"}, "", false},
	{"pseudo field after others", []string{"a", "b", ":path", "/a"}, "", false},
	{"unknown pseudo field", []string{":smuggled", "1"}, "", false},
	{"status in a request", []string{":status", "200"}, "", false},
	{"protocol", []string{":protocol", "websocket"}, "", false},
}

// send sends the request on a new connection.
func (m downgrade) send(w *world) []int {
	status := m.on(w)
	if status == "" {
		return nil
	}
	var n int
	_, _ = fmt.Sscan(status, &n)
	return []int{n}
}

func (m downgrade) on(w *world) (status string) {
	c := w.h2()
	defer c.Conn.Close()
	pairs := []string{}
	for _, p := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/a"}} {
		if !slices.Contains(m.fields, p[0]) {
			pairs = append(pairs, p[:]...)
		}
	}
	id := c.Request(append(pairs, m.fields...), m.body)
	return c.Outcome(id)
}

// No part of an HTTP/2 request becomes a second message, line or host in HTTP/1.
func TestDowngrade(t *testing.T) {
	w := newWorld(t, toWeb)
	var mu sync.Mutex
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if r.Host != "x" || r.URL.Path != "/a" || len(r.Header["Smuggled"]) > 0 || len(body) > 35 {
			t.Errorf("the origin saw %s %s of %s %v %q", r.Method, r.URL, r.Host, r.Header, body)
		}
	}))
	for _, m := range downgrades {
		t.Run(m.name, func(t *testing.T) {
			if got := m.on(w); m.taken != (got == "200") || !m.taken && got != "400" && got != "" {
				t.Errorf("status %q, want it taken: %v", got, m.taken)
			}
		})
	}
}

// TestDowngradeOfBodyAfterLengthZero sends a body after a header that says that there is none. The header is good, so
// the request may have been passed on before the edge sees the body. The origin must not get the body in any case, and
// the stream must end.
func TestDowngradeOfBodyAfterLengthZero(t *testing.T) {
	fields := []string{
		":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/a", "content-length", "0",
	}
	for _, answered := range []bool{false, true} {
		t.Run(fmt.Sprintf("after the response: %v", answered), func(t *testing.T) {
			w := newWorld(t, toWeb)
			var requests atomic.Int32
			w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				if body, err := io.ReadAll(r.Body); len(body) > 0 || err != nil || r.URL.Path != "/a" {
					t.Errorf("the origin got %s %s with body %q, %v, want POST /a with no body", r.Method, r.URL, body,
						err)
				}
			}))
			c := w.h2()
			defer c.Conn.Close()
			id := c.Stream
			c.Stream += 2
			_ = c.WriteHeaders(http2.HeadersFrameParam{
				StreamID: id, EndHeaders: true,
				BlockFragment: c.Fields(fields...),
			})
			if answered {
				if got := c.Outcome(id); got != "200" {
					t.Fatalf("status %q before the body, want 200", got)
				}
			}
			_ = c.WriteData(id, true, []byte(inside))
			if got := c.Outcome(id); got != "200" && got != "400" && got != "" {
				t.Errorf("status %q, want 200, 400 or a reset", got)
			}
			// The connection is served in order: when this is answered, the body has been read.
			if got := c.Outcome(c.Open("GET", "/a", true)); got != "200" {
				t.Errorf("status %q of the next request on the connection, want 200", got)
			}
			if n := requests.Load(); n > 2 || answered && n != 2 {
				t.Errorf("the origin got %d requests, want 2, or 1 when the body came before the first was passed on",
					n)
			}
		})
	}
}
