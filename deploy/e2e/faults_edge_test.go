package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	members "bijou.dev/platform/discovery"
	"bijou.dev/services/gateway/gatewaytest"

	"golang.org/x/net/http2"
)

// edgeFaults attack the edge while it serves other requests.
var edgeFaults = []fault{
	attacked("25", "1,000 connections with slow headers", 10, edgeTarget, slowClients("headers", "HTTP/2")),
	attacked("25", "1,000 connections with slow bodies", 10, edgeTarget,
		slowClients("large bodies", "small bodies", "chunks")),
	attacked("25", "1,000 connections that read nothing", 10, edgeTarget, slowClients("readers")),
	shortRow(attacked("26", "oversized everything", 3, edgeTarget, oversize)),
	attacked("27", "floods and stalls of HTTP/2", 12, floodTarget, flood),
	shortRow(attacked("27", "gRPC streams that the server ends while the client sends", 3, edgeTarget, endlessRequest)),
	shortRow(attacked("44", "20,000 idle connections", 8, idleTarget, idleConnections)),
	attacked("29", "bodies that unpack to 64 MiB", 4, traces, unpack),
	{row: "28", name: "smuggled requests", run: faultRequestSmuggling},
	{row: "29", name: "malformed bytes", run: faultMalformedInput},
}

func shortRow(f fault) fault {
	f.short = true
	return f
}

// target is an instance to attack, and how many bytes of memory it may use more during the attack.
type target struct {
	victim string
	spare  float64
}

var (
	edgeTarget  = target{"gateway-1", 64 << 20}
	idleTarget  = target{"gateway-1", 200 << 20} // its container has 256 MiB
	floodTarget = target{"gateway-1", 80 << 20}  // what is left of its memory limit
	traces      = target{"tracing-1", 160 << 20} // it may hold 64 MiB of received spans, and its container has 256 MiB
)

// attackRun is an attack on an instance. The edge routes requests with the host x to attackOrigin.
type attackRun struct {
	platform
	target
	before map[string]float64 // metrics of the victim before the attack
	cpu    time.Duration      // of this process
	least  float64            // memory of the victim before the attack, in bytes
	peak   float64            // largest memory of the victim during the attack, in bytes

	over      chan struct{} // closed when the attack is to end
	attackers sync.WaitGroup
	judge     func(t testing.TB, grown func(metric string) float64) // optional: checks the metrics of the victim

	mu            sync.Mutex
	n             int // attacks that have ended
	longest       time.Duration
	notes, missed []string
}

// attacked is a row in which attack starts attackers. They go on until s.over is closed or the victim disconnects them.
func attacked(row, name string, seconds int, on target, attack func(s *attackRun)) fault {
	var s *attackRun
	return fault{
		row: row, name: name, on: processesOf, seconds: seconds, must: .999,
		beside: func(t testing.TB, p platform) func() (string, []string) {
			s = &attackRun{platform: p, target: on, over: make(chan struct{})}
			lift := s.startOrigin(t)
			return func() (string, []string) { lift(); return s.report(t) }
		},
		inject: func(t testing.TB, _ platform) { s.watch(t); attack(s) },
		heal:   func(testing.TB, platform) { close(s.over); s.attackers.Wait() },
	}
}

// startOrigin starts the origin of the attack, registers it, and routes the host x to it.
func (s *attackRun) startOrigin(t testing.TB) (lift func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: attackOrigin, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	c, err := members.New(members.Options{Seeds: []string{s.addr("discovery", 7000)}, Name: "attack-1"})
	if err != nil {
		t.Fatal(err)
	}
	to := l.Addr().String()
	in := members.Instance{
		Service: "attack", ID: "attack-1", Status: members.Up, Endpoints: map[string]string{"http": to, "grpc": to},
	}
	r, err := members.NewRegistrar(c, in, members.RegistrarOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var all sync.WaitGroup
	all.Go(func() { _ = srv.Serve(l) }) // ends with Close
	all.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() { cancel(); _ = srv.Close(); all.Wait() })
	waitDeclared(t, s)
	before, _, err := effective(t.Context(), s, "gateway-1", "gateway.routes")
	var routes []map[string]any
	if err := errors.Join(err, json.Unmarshal([]byte(before), &routes)); err != nil {
		t.Fatal(err)
	}
	routes = append(routes,
		map[string]any{
			"name": "attack", "match": map[string]any{"host": "x"},
			"to": []map[string]any{{"service": "attack"}},
		},
		map[string]any{
			"name": "attack-grpc", "match": map[string]any{"host": "x", "prefix": "/test.v1.Calls"},
			"to": []map[string]any{{"service": "attack", "endpoint": "grpc"}},
		})
	b, err := json.Marshal(routes)
	if err != nil {
		t.Fatal(err)
	}
	must(t, s, "config", "set", "gateway.routes", string(b), "--app", "gateway", "--reason", "an attack",
		"--wait", "20s")
	eventually(t, 20*time.Second, "the origin of the attack to be routed to", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, edge(s)+"/", nil)
		if err != nil {
			return err
		}
		req.Host = "x"
		if a, err := do(req); err != nil || a.body != "ok" {
			return fmt.Errorf("%d %v %.200s", a.status, err, a.body)
		}
		return nil
	})
	return func() {
		unset(t, s, "gateway.routes", "gateway")
		if err := r.Leave(t.Context()); err != nil {
			t.Errorf("deregistering the origin of the attack: %v", err)
		}
	}
}

// scrape reads the metrics of an instance: name with labels -> value.
func scrape(ctx context.Context, p platform, instance string) (map[string]float64, error) {
	a, err := get(ctx, "http://"+p.addr(instance, 9090)+"/metrics")
	if err != nil {
		return nil, err
	}
	all := map[string]float64{}
	for line := range strings.Lines(a.body) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			all[line[:i]], err = strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
			if err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// memory returns the resident memory of an instance in bytes, as the kernel counts it. A request to the instance would
// change it.
func (p processes) memory(instance string) float64 {
	for _, i := range p.Instances() {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", i.PID)); i.Name == instance && err == nil {
			var all, resident float64
			_, _ = fmt.Sscan(string(b), &all, &resident)
			return resident * float64(os.Getpagesize())
		}
	}
	return 0
}

// leastMemory is start time of a process -> least memory that it was seen to use, in bytes. A process does not free all
// memory of one attack before the next.
var leastMemory = map[float64]float64{}

// watch samples the memory of the victim until the attack is over.
func (s *attackRun) watch(t testing.TB) {
	t.Helper()
	var err error
	if s.before, err = scrape(t.Context(), s, s.victim); err != nil {
		t.Fatal(err)
	}
	memory := s.platform.(interface{ memory(instance string) float64 }).memory
	started := s.before["process_start_time_seconds"]
	s.least = min(memory(s.victim), cmp.Or(leastMemory[started], math.MaxFloat64))
	leastMemory[started] = s.least
	s.cpu = cpuTime()
	s.attackers.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			s.peak = max(s.peak, memory(s.victim))
			select {
			case <-tick.C:
			case <-s.over:
				return
			}
		}
	})
}

// cpuTime returns the CPU time of this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for RUSAGE_SELF
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// launch starts n attackers, one per millisecond. A burst of connections is not part of these attacks.
func (s *attackRun) launch(n int, attack func(i int)) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := range n {
		s.attackers.Go(func() { attack(i) })
		<-tick.C
	}
}

// repeat calls round until the attack is over, at most every 50 ms.
func (s *attackRun) repeat(round func()) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		round()
		select {
		case <-tick.C:
		case <-s.over:
			return
		}
	}
}

// done counts an attack that has ended, and its duration.
func (s *attackRun) done(begun time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	s.longest = max(s.longest, time.Since(begun))
}

// missf records a requirement that was not met. Only the first three are kept.
func (s *attackRun) missf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missed) < 3 {
		s.missed = append(s.missed, fmt.Sprintf(format, args...))
	}
}

// dial opens a connection to the edge. narrow gives it small buffers.
func (s *attackRun) dial(narrow bool) net.Conn {
	d := net.Dialer{Timeout: 10 * time.Second}
	if narrow {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				// else the kernel of the edge buffers megabytes
				_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536)
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
			})
		}
	}
	c, err := d.Dial("tcp", s.addr("gateway", 8080))
	if err != nil {
		s.missf("connecting: %v", err)
		return nil
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // longer than any attack
	return c
}

// report returns the note of the row and the requirements that were not met.
func (s *attackRun) report(t testing.TB) (string, []string) {
	after, err := scrape(t.Context(), s, s.victim)
	if err != nil {
		t.Fatal(err)
	}
	grown := func(metric string) float64 { return after[metric] - s.before[metric] }
	if s.judge != nil {
		s.judge(t, grown)
	}
	growth := s.peak - s.least
	s.notes = append(s.notes,
		fmt.Sprintf("%s used up to %.0f MiB more, and %.1f s of CPU time while attackers and load used %.1f s",
			s.victim, max(0, growth)/(1<<20), grown("process_cpu_seconds_total"), (cpuTime()-s.cpu).Seconds()))
	if growth > s.spare {
		s.missf("%s used %.0f MiB more, must be at most %.0f MiB", s.victim, growth/(1<<20), s.spare/(1<<20))
	}
	return strings.Join(s.notes, "; "), s.missed
}

// idleConnections opens 20,000 connections from 20 addresses, of which each may have 2,000, and sends nothing.
func idleConnections(s *attackRun) {
	const n, addresses = 20_000, 20
	var opened sync.WaitGroup
	for a := range addresses {
		opened.Go(func() {
			d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 3, byte(a+1))}}
			for range n / addresses {
				conn, err := d.Dial("tcp", s.addr("gateway", 8080))
				if err != nil {
					s.missf("connecting: %v", err)
					return
				}
				begun := time.Now()
				s.attackers.Go(func() {
					ended := make(chan struct{})
					go func() {
						defer close(ended)
						_, _ = io.Copy(io.Discard, conn) // until the edge closes it
					}()
					select {
					case <-ended:
					case <-s.over:
					}
					_ = conn.Close()
					<-ended
					s.done(begun)
				})
			}
		})
	}
	opened.Wait()
	s.judge = func(t testing.TB, grown func(metric string) float64) {
		refused := grown(`bijou_gateway_connections_refused_total{limit="memory"}`)
		closed := grown("bijou_gateway_connections_idle_closed_total")
		s.notes = append(s.notes, fmt.Sprintf("of %d connections %.0f were refused and %.0f closed for others", n, refused,
			closed))
		if refused+closed < n/2 {
			s.missf("only %.0f of %d idle connections were refused or closed", refused+closed, n)
		}
	}
}

// slowClients starts a thousand slow clients, as many of each kind.
func slowClients(kinds ...string) func(s *attackRun) {
	const n = 1000
	return func(s *attackRun) {
		s.launch(n, func(i int) {
			c := gatewaytest.SlowClients[kinds[i%len(kinds)]]
			conn := s.dial(!c.Takes)
			if conn == nil {
				return
			}
			defer conn.Close()
			begun := time.Now()
			_, err := io.WriteString(conn, c.Start)
			if !c.Takes {
				for <-time.After(8 * time.Second); err == nil; <-time.After(100 * time.Millisecond) {
					_, err = io.WriteString(conn, "x") // writing shows whether the edge has closed the connection
				}
				s.done(begun)
				return
			}
			s.attackers.Go(func() {
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
					s.missf("an attacker was still connected after a minute")
				}
				s.done(begun)
			})
			for err == nil {
				<-time.After(2 * time.Second)
				_, err = io.WriteString(conn, c.Drip)
			}
		})
		s.judge = func(testing.TB, func(string) float64) {
			s.notes = append(s.notes, fmt.Sprintf("%d closed, the last after %.1f s of 10", s.n, s.longest.Seconds()))
			if s.n < n || s.longest > 15*time.Second {
				s.missf("%d of %d connections were closed, the last after %v; want all within 15 s", s.n, n, s.longest)
			}
		}
	}
}

// oversized are messages that exceed a limit, and the status that each must get. Each must close its connection.
var oversized = map[string]struct {
	in     string
	status int
}{
	"field": {"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("x", 40<<10) + "\r\n\r\n", 431},
	"header": {"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: "+strings.Repeat("x", 900)+"\r\n", 40) +
		"\r\n", 431},
	"number of fields":   {"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: x\r\n", 101) + "\r\n", 431},
	"URL":                {"GET /" + strings.Repeat("x", 9<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
	"URL without an end": {"GET /" + strings.Repeat("x", 40<<10), 414},
	"announced body":     {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11000000\r\n\r\n", 413},
	"body": {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
		strings.Repeat("100000\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 11), 413},
	"chunk extensions": {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
		strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 100), 400},
	"trailer": {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" +
		strings.Repeat("A: "+strings.Repeat("x", 900)+"\r\n", 10), 400},
}

// oversizedHTTP2 are header fields that exceed a limit, and the status that a request with them must get.
var oversizedHTTP2 = map[string]struct {
	pairs  []string
	status string
}{
	// GOAWAY: net/http closes the connection
	"field": {[]string{":path", "/", "a", strings.Repeat("x", 40<<10)}, ""},
	"header": {slices.Concat([]string{":path", "/"},
		slices.Repeat([]string{"a", strings.Repeat("x", 900)}, 40)), "431"},
	"number of fields": {slices.Concat([]string{":path", "/"}, slices.Repeat([]string{"a", "x"}, 101)), "431"},
	"URL":              {[]string{":path", "/" + strings.Repeat("x", 9<<10)}, "414"},
	"announced body":   {[]string{":path", "/", "content-length", "11000000"}, "413"},
}

func oversize(s *attackRun) {
	s.launch(4, func(int) {
		s.repeat(func() {
			for name, o := range oversized {
				s.oversized(name, o.in, o.status)
			}
			for name, o := range oversizedHTTP2 {
				conn := s.dial(false)
				if conn == nil {
					return
				}
				begun, c := time.Now(), gatewaytest.NewClient(conn)
				fields := append([]string{":method", "POST", ":scheme", "http", ":authority", "x"}, o.pairs...)
				if got := c.Outcome(c.Request(fields, "x")); got != o.status {
					s.missf("oversized %s by HTTP/2: status %q, want %q", name, got, o.status)
				}
				_ = conn.Close()
				s.done(begun)
			}
		})
	})
	s.judge = func(testing.TB, func(string) float64) {
		s.notes = append(s.notes, fmt.Sprintf("%d messages of %d kinds, each got the expected status", s.n,
			len(oversized)+len(oversizedHTTP2)))
	}
}

func (s *attackRun) oversized(name, in string, status int) {
	conn := s.dial(false)
	if conn == nil {
		return
	}
	defer conn.Close()
	begun := time.Now()
	s.attackers.Go(func() { _, _ = io.WriteString(conn, in) }) // fails if the edge closes before it has read all
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.missf("oversized %s: reading the response: %v", name, err)
		return
	}
	_, _ = io.Copy(io.Discard, res.Body) // the next read must find the end of the connection
	_ = res.Body.Close()
	if _, err := conn.Read(make([]byte, 1)); res.StatusCode != status || errors.Is(err, os.ErrDeadlineExceeded) ||
		err == nil {
		s.missf("oversized %s: status %d, then reading gave %v; want %d and a closed connection", name, res.StatusCode,
			err, status)
	}
	s.done(begun)
}

// flood opens streams whose responses it does not read, and then repeats every kind of flood.
func flood(s *attackRun) {
	const stalled = 5
	var opened sync.WaitGroup
	opened.Add(stalled)
	s.launch(stalled, func(int) {
		conn := s.dial(false)
		if conn == nil {
			opened.Done()
			return
		}
		defer conn.Close()
		begun, c := time.Now(), gatewaytest.NewClient(conn, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for range 40 {
			c.Open("GET", "/large", true)
			<-time.After(20 * time.Millisecond) // faster, the limiter of the origin would refuse requests
		}
		opened.Done()
		<-c.Done()
		if took := time.Since(begun); took > 15*time.Second {
			s.missf("a client that reads nothing was disconnected after %v, want at most 15 s",
				took.Round(time.Millisecond))
		}
	})
	opened.Wait()
	names := slices.Sorted(maps.Keys(gatewaytest.Floods))
	s.launch(2, func(i int) {
		s.repeat(func() {
			name := names[i%len(names)]
			i++
			conn := s.dial(false)
			if conn == nil {
				return
			}
			defer conn.Close()
			begun, frames, c := time.Now(), 0, gatewaytest.NewClient(conn)
			for frames < 1e6 && !c.Closed() {
				frames += gatewaytest.Floods[name].Step(c)
			}
			<-c.Done()
			if took := time.Since(begun); frames > 1000 && took > time.Second {
				s.missf("the flood %s was disconnected after %d frames and %v, want at most 1,000 frames or 1 s", name,
					frames, took)
			}
			s.done(begun)
		})
	})
	s.judge = func(_ testing.TB, grown func(string) float64) {
		counted := 0.0
		// the edge may report the end of a flood as another kind
		for _, kind := range []string{"reset_flood", "frame_flood", "goaway"} {
			counted += grown(`bijou_gateway_http2_errors_total{kind="` + kind + `"}`)
		}
		stalls := grown(`bijou_gateway_http2_errors_total{kind="stall_flood"}`)
		if counted < float64(s.n) || stalls < stalled {
			s.missf("the metrics count %.0f floods and %.0f stalls, want %d and %d", counted, stalls, s.n, stalled)
		}
		s.notes = append(s.notes, fmt.Sprintf("%d floods of %d kinds disconnected and counted, the last after %v and "+
			"no later than 1,000 frames or 1 s; %d clients that read nothing within 15 s",
			s.n, len(names), s.longest.Round(time.Millisecond), stalled))
	}
}

// attackOrigin serves the requests of attackers. A gRPC call gets the first part of its response at once, and its
// status after the first 100 bytes of its request.
var attackOrigin = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/test.v1.Calls/") {
		gatewaytest.Origin(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = io.WriteString(w, "first")
	_ = http.NewResponseController(w).Flush()
	_, _ = io.ReadFull(r.Body, make([]byte, 100))
	w.Header().Set("Grpc-Status", "10")
})

// endlessRequest makes gRPC calls that never stop sending, although the server has ended them (golang/go#80085).
func endlessRequest(s *attackRun) {
	s.launch(4, func(int) {
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		defer tr.CloseIdleConnections()
		s.repeat(func() {
			begun := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			body, send := io.Pipe()
			defer body.Close()
			s.attackers.Go(func() {
				for err := error(nil); err == nil; {
					_, err = send.Write(make([]byte, 64<<10))
				}
			})
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, edge(s)+"/test.v1.Calls/Chat", body)
			if err != nil {
				s.missf("%v", err)
				return
			}
			req.Host = "x"
			req.Header.Set("Content-Type", "application/grpc")
			res, err := tr.RoundTrip(req)
			if err != nil {
				s.missf("a gRPC call that sends without end: %v", err)
				return
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != "first" ||
				res.Trailer.Get("Grpc-Status") != "10" {
				s.missf("a gRPC call that sends without end got body %q, trailer %v, error %v; want first, status 10 "+
					"and nil",
					got, res.Trailer, err)
			}
			s.done(begun)
		})
	})
	s.judge = func(testing.TB, func(string) float64) {
		s.notes = append(s.notes, fmt.Sprintf("%d calls, the longest took %v", s.n, s.longest.Round(time.Millisecond)))
	}
}

// unpack sends small compressed bodies to the trace store that unpack to 64 MiB.
func unpack(s *attackRun) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 64<<20)) // writing to a buffer cannot fail
	_ = z.Close()
	s.launch(20, func(int) {
		s.repeat(func() {
			req, err := http.NewRequest(http.MethodPost, "http://"+s.addr("tracing", 4318)+"/v1/traces",
				bytes.NewReader(bomb.Bytes()))
			if err != nil {
				s.missf("%v", err)
				return
			}
			req.Header.Set("Content-Type", "application/x-protobuf")
			req.Header.Set("Content-Encoding", "gzip")
			begun := time.Now()
			a, err := do(req)
			if err != nil || a.status != http.StatusRequestEntityTooLarge && a.status != http.StatusTooManyRequests {
				s.missf("a body of 64 MiB got status %d, error %v, want 413 or 429: %.200s", a.status, err, a.body)
			}
			s.done(begun)
		})
	})
	s.judge = func(testing.TB, func(string) float64) {
		s.notes = append(s.notes, fmt.Sprintf("%d refused, the last after %v", s.n, s.longest.Round(time.Millisecond)))
	}
}

// faultRequestSmuggling runs the gateway's tests of message framing, with nginx, HAProxy, Apache and Go behind it.
func faultRequestSmuggling(t *testing.T, _ platform, _ uint64) (f figures) {
	out := run(t, "go", "test", "-count=1", "-v", "-run", "^(TestFraming|TestDowngrade|TestBackends)$",
		"./services/gateway")
	if m := regexp.MustCompile(`--- SKIP.*\n.*: (.*)`).FindStringSubmatch(out); m != nil {
		t.Skip(m[1])
	}
	m := regexp.MustCompile(`(\d+) messages, (\d+) differences, (\d+) times`).FindStringSubmatch(out)
	n := regexp.MustCompile(`read (\d+) messages of two sections differently`).FindStringSubmatch(out)
	if m == nil || n == nil {
		t.Fatalf("the output of the framing tests has no number of messages:\n%s", out)
	}
	f.note = fmt.Sprintf("%s messages before nginx, HAProxy, Apache and Go: %s read differently, %s times one of "+
		"them was stricter; %d by HTTP/1 and %d by HTTP/2 had the required response. Without the edge %s of two "+
		"sections are read differently",
		m[1], m[2], m[3], strings.Count(out, "--- PASS: TestFraming/"),
		strings.Count(out, "--- PASS: TestDowngrade/"), n[1])
	return f
}

// faultMalformedInput runs every fuzz target.
func faultMalformedInput(t *testing.T, _ platform, _ uint64) figures {
	out := run(t, "go", "run", "./deploy/e2e/fuzz", "-time", "2s")
	return figures{note: lastLine(out)}
}

// run runs a command at the top of the repository and returns what it printed. It must not fail.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
