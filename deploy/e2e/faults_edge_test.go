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

// edgeFaults attack the edge while others use it.
var edgeFaults = []fault{
	attacked("25", "1,000 connections with slow headers", 10, edgeTarget, slowClients("headers", "HTTP/2")),
	attacked("25", "1,000 connections with slow bodies", 10, edgeTarget, slowClients("large bodies", "small bodies", "chunks")),
	attacked("25", "1,000 connections that read nothing", 10, edgeTarget, slowClients("readers")),
	shortRow(attacked("26", "oversized everything", 3, edgeTarget, oversize)),
	attacked("27", "floods and stalls of HTTP/2", 12, floodTarget, flood),
	shortRow(attacked("27", "gRPC streams that the server ends while the client sends", 3, edgeTarget, leave)),
	attacked("29", "bodies that unpack to 64 MiB", 4, traces, unpack),
	{row: "28", name: "smuggled requests", run: faultRequestSmuggling},
	{row: "29", name: "malformed bytes", run: faultMalformedInput},
}

func shortRow(f fault) fault {
	f.short = true
	return f
}

// target is an instance that is attacked, and how much more memory that may cost it.
type target struct {
	victim string
	spare  float64
}

var (
	edgeTarget  = target{"gateway-1", 64 << 20}
	floodTarget = target{"gateway-1", 80 << 20}  // what its memory limit leaves
	traces      = target{"tracing-1", 160 << 20} // it may hold 64 MiB of what it is sent, and its container has 256
)

// attackRun is an attack on an instance. Requests that ask the edge for host x come out at an origin of the attacker's.
type attackRun struct {
	platform
	target
	before map[string]float64 // what the victim said of itself
	cpu    time.Duration      // of this process
	least  float64            // of the victim's memory
	peak   float64            // of it during the attack

	over      chan struct{} // closed when the attack is to end
	attackers sync.WaitGroup
	judge     func(t testing.TB, grown func(metric string) float64) // nil: there is nothing more to see

	mu            sync.Mutex
	n             int // attacks that the victim was done with
	longest       time.Duration
	notes, missed []string
}

// attacked is a row in which attack sends attackers, who fight until s.over or until the victim is done with them.
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

// camp starts the attacker's origin and has the edge know it.
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
	r := members.NewRegistrar(c, members.Instance{Service: "attack", ID: "attack-1", Status: members.Up, Endpoints: map[string]string{"http": to, "grpc": to}}, members.RegistrarOptions{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var all sync.WaitGroup
	all.Go(func() { _ = srv.Serve(l) }) // ends with Close
	all.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() { cancel(); _ = srv.Close(); all.Wait() })
	waitDeclared(t, s)
	now, _, err := effective(t.Context(), s, "gateway-1", "gateway.routes")
	var routes []map[string]any
	if err := errors.Join(err, json.Unmarshal([]byte(now), &routes)); err != nil {
		t.Fatal(err)
	}
	routes = append(routes,
		map[string]any{"name": "attack", "match": map[string]any{"host": "x"}, "to": []map[string]any{{"service": "attack"}}},
		map[string]any{"name": "attack-grpc", "match": map[string]any{"host": "x", "prefix": "/test.v1.Calls"}, "to": []map[string]any{{"service": "attack", "endpoint": "grpc"}}})
	b, err := json.Marshal(routes)
	if err != nil {
		t.Fatal(err)
	}
	must(t, s, "config", "set", "gateway.routes", string(b), "--app", "gateway", "--reason", "an attack", "--wait", "20s")
	eventually(t, 20*time.Second, "the attacker's origin", func(ctx context.Context) error {
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
			t.Errorf("the attacker's origin leaves: %v", err)
		}
	}
}

// scrape reads the metrics of an instance, with their labels in their names.
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

// memory returns what an instance takes as the system counts it: to ask the instance would cost it some.
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

// leastMemory is the least that processes were seen to take, by when they started. What an attack made one take is not all
// given back before the next.
var leastMemory = map[float64]float64{}

// watch follows the memory of the victim until the attack is over. What counts is what it takes more than at rest.
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

// cpuTime is that of this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// send sends n attackers, one after the other: it is not how many come at once that is to hurt.
func (s *attackRun) launch(n int, attack func(i int)) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := range n {
		s.attackers.Go(func() { attack(i) })
		<-tick.C
	}
}

// fight goes on until the attack is over, one round every 50 ms at most.
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

// done notes that the victim was done with an attack.
func (s *attackRun) done(begun time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	s.longest = max(s.longest, time.Since(begun))
}

// miss notes what should not have been, a few times.
func (s *attackRun) missf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missed) < 3 {
		s.missed = append(s.missed, fmt.Sprintf(format, args...))
	}
}

// dial opens a connection to the edge. One that is narrow has small buffers.
func (s *attackRun) dial(narrow bool) net.Conn {
	d := net.Dialer{Timeout: 10 * time.Second}
	if narrow {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536) // else the edge's system buffers megabytes
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
			})
		}
	}
	c, err := d.Dial("tcp", s.addr("gateway", 8080))
	if err != nil {
		s.missf("connecting: %v", err)
		return nil
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // no attack lasts longer
	return c
}

// report says how it went.
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
	s.notes = append(s.notes, fmt.Sprintf("%s took up to %.0f MiB more, and %.1f s of CPU time while attackers and load took %.1f s",
		s.victim, max(0, growth)/(1<<20), grown("process_cpu_seconds_total"), (cpuTime()-s.cpu).Seconds()))
	if growth > s.spare {
		s.missf("%s took %.0f MiB more, must be at most %.0f", s.victim, growth/(1<<20), s.spare/(1<<20))
	}
	return strings.Join(s.notes, "; "), s.missed
}

// slowClients sends a thousand slow clients of several kinds in equal parts.
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
					_, err = io.WriteString(conn, "x") // only so it is seen that the edge has closed
				}
				s.done(begun)
				return
			}
			s.attackers.Go(func() {
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
					s.missf("an attacker was served for a minute")
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
				s.missf("%d of %d closed, the last after %v", s.n, n, s.longest)
			}
		}
	}
}

// oversized are messages that are too large in some way, and their answers. All must end their connection.
var oversized = map[string]struct {
	in     string
	status int
}{
	"field":              {"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("x", 40<<10) + "\r\n\r\n", 431},
	"header":             {"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: "+strings.Repeat("x", 900)+"\r\n", 40) + "\r\n", 431},
	"number of fields":   {"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: x\r\n", 101) + "\r\n", 431},
	"URL":                {"GET /" + strings.Repeat("x", 9<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
	"URL without an end": {"GET /" + strings.Repeat("x", 40<<10), 414},
	"announced body":     {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11000000\r\n\r\n", 413},
	"body":               {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("100000\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 11), 413},
	"chunk extensions":   {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 100), 400},
	"trailer":            {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: "+strings.Repeat("x", 900)+"\r\n", 10), 400},
}

// oversizedHTTP2 are fields that are, beside those that every request has.
var oversizedHTTP2 = map[string]struct {
	pairs  []string
	status string
}{
	"field":            {[]string{":path", "/", "a", strings.Repeat("x", 40<<10)}, ""}, // GOAWAY: net/http gives up on it
	"header":           {slices.Concat([]string{":path", "/"}, slices.Repeat([]string{"a", strings.Repeat("x", 900)}, 40)), "431"},
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
				if got := c.Outcome(c.Request(slices.Concat([]string{":method", "POST", ":scheme", "http", ":authority", "x"}, o.pairs), "x")); got != o.status {
					s.missf("%s by HTTP/2: %s", name, got)
				}
				_ = conn.Close()
				s.done(begun)
			}
		})
	})
	s.judge = func(testing.TB, func(string) float64) {
		s.notes = append(s.notes, fmt.Sprintf("%d messages of %d kinds, each got its status", s.n, len(oversized)+len(oversizedHTTP2)))
	}
}

func (s *attackRun) oversized(name, in string, status int) {
	conn := s.dial(false)
	if conn == nil {
		return
	}
	defer conn.Close()
	begun := time.Now()
	s.attackers.Go(func() { _, _ = io.WriteString(conn, in) }) // the edge need not take it all
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.missf("%s: %v", name, err)
		return
	}
	_, _ = io.Copy(io.Discard, res.Body) // an answer with nothing behind it
	_ = res.Body.Close()
	if _, err := conn.Read(make([]byte, 1)); res.StatusCode != status || errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		s.missf("%s: %d, then %v", name, res.StatusCode, err)
	}
	s.done(begun)
}

// flood sends requests whose answers are not taken, and then every kind of flood again and again.
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
			<-time.After(20 * time.Millisecond) // or the origin would be found to have too much to do
		}
		opened.Done()
		<-c.Done()
		if took := time.Since(begun); took > 15*time.Second {
			s.missf("a client that takes nothing was cut off after %v", took.Round(time.Millisecond))
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
				s.missf("%s was cut off after %d frames and %v", name, frames, took)
			}
			s.done(begun)
		})
	})
	s.judge = func(_ testing.TB, grown func(string) float64) {
		counted := 0.0
		for _, kind := range []string{"reset_flood", "frame_flood", "goaway"} { // by the end of a flood the edge may see another
			counted += grown(`bijou_gateway_http2_errors_total{kind="` + kind + `"}`)
		}
		calm := grown(`bijou_gateway_http2_errors_total{kind="stall_flood"}`)
		if counted < float64(s.n) || calm < stalled {
			s.missf("%.0f floods and %.0f stalls were counted, there were %d and %d", counted, calm, s.n, stalled)
		}
		s.notes = append(s.notes, fmt.Sprintf("%d floods of %d kinds cut off and counted, the last after %v and no later than 1,000 frames or 1 s; %d clients that take nothing within 15 s",
			s.n, len(names), s.longest.Round(time.Millisecond), stalled))
	}
}

// attackOrigin is where the attackers' requests come out. A call of gRPC gets some of its answer, and its end when 100 bytes
// have come of what may have no end.
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

// leave calls by gRPC and never stops sending (golang/go#80085).
func leave(s *attackRun) {
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
				s.missf("a call: %v", err)
				return
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != "first" || res.Trailer.Get("Grpc-Status") != "10" {
				s.missf("a call ended with %q, %v, %v", got, res.Trailer, err)
			}
			s.done(begun)
		})
	})
	s.judge = func(testing.TB, func(string) float64) {
		s.notes = append(s.notes, fmt.Sprintf("%d calls, the longest took %v", s.n, s.longest.Round(time.Millisecond)))
	}
}

// unpack sends the trace store a little that becomes much.
func unpack(s *attackRun) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 64<<20)) // a buffer takes everything
	_ = z.Close()
	s.launch(20, func(int) {
		s.repeat(func() {
			req, err := http.NewRequest(http.MethodPost, "http://"+s.addr("tracing", 4318)+"/v1/traces", bytes.NewReader(bomb.Bytes()))
			if err != nil {
				s.missf("%v", err)
				return
			}
			req.Header.Set("Content-Type", "application/x-protobuf")
			req.Header.Set("Content-Encoding", "gzip")
			begun := time.Now()
			a, err := do(req)
			if err != nil || a.status != http.StatusRequestEntityTooLarge && a.status != http.StatusTooManyRequests {
				s.missf("%d %v %.200s", a.status, err, a.body)
			}
			s.done(begun)
		})
	})
	s.judge = func(testing.TB, func(string) float64) {
		s.notes = append(s.notes, fmt.Sprintf("%d refused, the last after %v", s.n, s.longest.Round(time.Millisecond)))
	}
}

// faultRequestSmuggling runs the edge's own tests of what is a message, in front of nginx, HAProxy, Apache and Go.
func faultRequestSmuggling(t *testing.T, _ platform, _ uint64) (f figures) {
	out := run(t, "go", "test", "-count=1", "-v", "-run", "^(TestFraming|TestDowngrade|TestBackends)$", "./services/gateway")
	if m := regexp.MustCompile(`--- SKIP.*\n.*: (.*)`).FindStringSubmatch(out); m != nil {
		t.Skip(m[1])
	}
	m := regexp.MustCompile(`(\d+) messages, (\d+) differences, (\d+) times`).FindStringSubmatch(out)
	n := regexp.MustCompile(`read (\d+) messages of two sections differently`).FindStringSubmatch(out)
	if m == nil || n == nil {
		t.Fatal("the tests did not say how many messages there were")
	}
	f.note = fmt.Sprintf("%s messages before nginx, HAProxy, Apache and Go: %s read differently, %s times one of them was stricter; %d by HTTP/1 and %d by HTTP/2 had the answer they must have. Without the edge %s of two sections are read differently",
		m[1], m[2], m[3], strings.Count(out, "--- PASS: TestFraming/"), strings.Count(out, "--- PASS: TestDowngrade/"), n[1])
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
