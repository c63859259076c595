//go:build linux && !race

package gateway_test

import (
	"bytes"
	"crypto/tls"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sockets opens connections without the memory that package net needs for them, so that what is measured is the edge.
type sockets struct {
	t        *testing.T
	fds      []int
	accepted chan int // those that listen has answered
}

func newSockets(t *testing.T) *sockets {
	s := &sockets{t: t, accepted: make(chan int, 10_000)}
	t.Cleanup(s.close)
	return s
}

func (s *sockets) close() {
	for _, fd := range s.fds {
		_ = syscall.Shutdown(fd, syscall.SHUT_RDWR) // ends accepting
		_ = syscall.Close(fd)                       // it is not needed any more
	}
	s.fds = nil
	for len(s.accepted) > 0 {
		_ = syscall.Close(<-s.accepted) // it is not needed any more
	}
}

func (s *sockets) new() int {
	s.t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.fds = append(s.fds, fd)
	return fd
}

// open connects to an address, sends a request, and reads until end has come.
func (s *sockets) open(addr, request, end string) int {
	s.t.Helper()
	to, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	fd := s.new()
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
		s.t.Fatal(err)
	}
	s.ask(fd, request, end)
	return fd
}

// ask sends a request, and reads until end has come.
func (s *sockets) ask(fd int, request, end string) {
	s.t.Helper()
	if _, err := syscall.Write(fd, []byte(request)); err != nil {
		s.t.Fatal(err)
	}
	var got []byte
	buf := make([]byte, 4<<10)
	for !bytes.HasSuffix(got, []byte(end)) {
		n, err := syscall.Read(fd, buf)
		if err != nil || n == 0 {
			s.t.Fatalf("reading a response: %d bytes, %v, after %q", n, err, got)
		}
		got = append(got, buf[:n]...)
	}
}

// listen answers each connection once, and keeps it open. The first answer comes when there are some connections.
func (s *sockets) listen(answer string, first int) (addr string) {
	s.t.Helper()
	fd := s.new()
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Listen(fd, 1024); err != nil {
		s.t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 16<<10)
		var waiting []int
		for {
			c, _, err := syscall.Accept(fd)
			if err != nil {
				return
			}
			for n := 0; !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")); {
				m, err := syscall.Read(c, buf[n:])
				if err != nil || m == 0 {
					return
				}
				n += m
			}
			if waiting = append(waiting, c); len(waiting) < first {
				continue
			}
			for _, c := range waiting {
				_, _ = syscall.Write(c, []byte(answer))
				s.accepted <- c
			}
			waiting = nil
			first = 0
		}
	}()
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}).String()
}

const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

// echo sends bytes through each tunnel and back. Both ends of all tunnels are connections of s.
func (s *sockets) echo(clients []int, text string) {
	s.t.Helper()
	for _, fd := range clients {
		if _, err := syscall.Write(fd, []byte(text)); err != nil {
			s.t.Fatal(err)
		}
	}
	for range clients {
		fd := <-s.accepted
		s.accepted <- fd
		s.ask(fd, text, text)
	}
	for _, fd := range clients {
		s.ask(fd, "", text)
	}
}

// Connections on which nothing moves hold no buffers and only small stacks, and what they had is given back to the
// system. What is measured is heap and stacks, about two thirds of the limits.
func TestMemoryOfIdleConnections(t *testing.T) {
	const get = "GET /films/42?a=b HTTP/1.1\r\nHost: cinema.example\r\nUser-Agent: plain/1.0\r\n" +
		"Accept: text/html,*/*\r\nAccept-Language: en\r\nCookie: session=1234567890\r\n\r\n"
	const n = 1000
	t.Run("HTTP/1.1", func(t *testing.T) {
		s := newSockets(t)
		addr := edge(t, plainOrigin(t), 0, nil)
		m := measureMemory(t, inUse)
		for range n {
			s.open(addr, get, "hello, world")
		}
		awaitGoroutines(t, "gateway.(*conn).wait", n)
		m.check(n, 6<<10)
		m.awaitRelease()
		for _, fd := range s.fds {
			s.ask(fd, get, "hello, world") // they still work
		}
	})
	t.Run("origin", func(t *testing.T) {
		const n = 400 // the pool has 512 at most
		s := newSockets(t)
		addr := edge(t, s.listen("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", n), 0, nil, "overload.enabled", "false")
		// Nothing runs for an idle connection. Go keeps stacks of goroutines that have ended, so stacks are not measured.
		goroutines := runtime.NumGoroutine()
		m := measureMemory(t, heapInUse)
		clients := newSockets(t)
		for range n {
			clients.open(addr, get, "")
		}
		for _, fd := range clients.fds {
			clients.ask(fd, "", "ok")
		}
		clients.close()
		m.check(n, 3<<10)
		if now := runtime.NumGoroutine(); now > goroutines+n/10 {
			t.Errorf("%d goroutines run, and %d before the requests", now, goroutines)
		}
		if len(s.accepted) != n {
			t.Errorf("the edge has made %d connections, want %d", len(s.accepted), n)
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		s := newSockets(t)
		addr := edge(t, s.listen(switched, 1), 0, nil)
		m := measureMemory(t, inUse)
		for range n {
			s.open(addr, upgrade, "\r\n\r\n")
		}
		awaitGoroutines(t, "http1.(*kernelPieces).next", 2*n)
		m.check(n, 11<<10)
		m.awaitRelease()
		s.echo(s.fds[1:], "\x81\x05hello") // that of listen is the first
		m.check(n, 11<<10)
		s.echo(s.fds[1:], "\x81\x05hello") // they still work
	})
}

// Over TLS the kernel tells when something has come for crypto/tls, which then holds nothing that was not read.
func TestIdleConnectionsOverTLSAndTCP(t *testing.T) {
	const n = 20
	w, a, _ := newTLSWorld(t, toWeb)
	w.origin("web", "web-1", "", responds("ok"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.edge.ServeTLS(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		<-served
	})
	asks := make([]func() error, n)
	for i := range asks {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: "www.example.org", RootCAs: a.pool})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		asks[i], _ = w.keep(c)
	}
	for range 2 {
		awaitGoroutines(t, "gateway.(*conn).wait", n)
		for i, ask := range asks {
			if err := ask(); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		}
	}
}

// memoryMeter measures how much memory more is in use.
type memoryMeter struct {
	t      *testing.T
	inUse  func() int64
	before int64
	forced uint32 // garbage collections that it has made, and those before it
}

func measureMemory(t *testing.T, inUse func() int64) *memoryMeter {
	before := inUse()
	return &memoryMeter{t: t, inUse: inUse, before: before, forced: forcedCollections()}
}

// check fails if each of n connections uses more than some bytes, and goes on using them.
func (m *memoryMeter) check(n, most int64) {
	m.t.Helper()
	var each int64
	begin := time.Now()
	for now := range time.Tick(500 * time.Millisecond) {
		each = (m.inUse() - m.before) / n
		if m.forced += 3; each <= most { // those of inUse
			m.t.Logf("each uses %d bytes", each)
			return
		}
		if now.Sub(begin) > 20*time.Second {
			break
		}
	}
	m.t.Errorf("each of %d idle connections uses %d bytes, want at most %d", n, each, most)
}

// awaitRelease waits until memory was given back to the system, which makes a garbage collection.
func (m *memoryMeter) awaitRelease() {
	m.t.Helper()
	begin := time.Now()
	for now := range time.Tick(50 * time.Millisecond) {
		if forcedCollections() > m.forced {
			break
		}
		if now.Sub(begin) > time.Minute {
			m.t.Fatal("what the connections do not need any more was not given back to the system within a minute")
		}
	}
	m.forced = forcedCollections()
}

func forcedCollections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumForcedGC
}

// awaitGoroutines waits until so many goroutines are in a function.
func awaitGoroutines(t *testing.T, function string, want int) {
	t.Helper()
	got := 0
	records := make([]runtime.StackRecord, 3*want+1000)
	begin := time.Now()
	for now := range time.Tick(100 * time.Millisecond) {
		n, _ := runtime.GoroutineProfile(records)
		got = 0
		for _, r := range records[:n] {
			for frames := runtime.CallersFrames(r.Stack()); ; {
				f, more := frames.Next()
				if strings.HasSuffix(f.Function, function) {
					got++
				}
				if !more {
					break
				}
			}
		}
		if got >= want {
			return
		}
		if now.Sub(begin) > time.Minute {
			break
		}
	}
	t.Fatalf("%d goroutines are in %s, want %d", got, function, want)
}
