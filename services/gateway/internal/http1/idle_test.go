package http1_test

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// serveIdle serves a connection as the edge does: when it is idle it goes on by Wait. It returns how often that was.
func serveIdle(nc http1.Conn, raw syscall.RawConn, opts http1.Options) (idle int) {
	var s http1.State
	for s.Serve(nc, opts) == http1.Idle {
		idle++
		if !s.Wait(nc, raw) {
			break
		}
	}
	return idle
}

// respondOK answers with 200.
func respondOK(r *message.Request, w message.Writer) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body) // the client is there
	}
	_ = w.Begin(http.StatusOK, nil, 0)
	_ = w.End(nil)
}

func never() bool { return false }

// talk serves one connection in fake time and returns the other end of it.
func talk(opts http1.Options) (here net.Conn, responses *bufio.Reader, idle <-chan int) {
	here, there := net.Pipe()
	ended := make(chan int, 1)
	go func() { ended <- serveIdle(client{there}, nil, opts) }()
	return here, bufio.NewReader(here), ended
}

// request200 sends a request in two pieces, and returns an error if the response is not 200.
func request200(c net.Conn, r *bufio.Reader, request string, first int, pause time.Duration) error {
	_, err := io.WriteString(c, request[:first])
	time.Sleep(pause)
	if err == nil {
		_, err = io.WriteString(c, request[first:])
	}
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return res.Body.Close()
}

// A request is answered whenever it comes: before its connection is idle, just then, and after.
func TestRequestsOfIdleConnectionsAreAnswered(t *testing.T) {
	for _, pause := range []time.Duration{0, 1500 * time.Millisecond, 3 * time.Second, 30 * time.Second, time.Minute} {
		for _, off := range []time.Duration{-time.Nanosecond, 0, time.Nanosecond} {
			if pause+off < 0 || pause+off >= time.Minute {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				c, r, idle := talk(http1.Options{Handle: respondOK, Stopping: never})
				for n := range 4 {
					if err := request200(c, r, ok, len(ok)/2, 0); err != nil {
						t.Errorf("request %d, each %v after the one before: %v", n, pause+off, err)
					}
					if n < 3 {
						time.Sleep(pause + off)
					}
				}
				_ = c.Close()
				if got := <-idle; pause > 3*time.Second && got != 3 || pause < time.Second && got != 0 {
					t.Errorf("with a request each %v the connection was idle %d times", pause+off, got)
				}
			})
		}
	}
}

// An idle connection is closed a minute after the last response, also if its client sends something that is no request.
func TestIdleConnectionsAreClosedAfterAMinute(t *testing.T) {
	for name, send := range map[string]string{"nothing": "", "an empty line": "\r\n"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, r, idle := talk(http1.Options{Handle: respondOK, Stopping: never})
				if err := request200(c, r, ok, 1, 0); err != nil {
					t.Fatal(err)
				}
				begin, want := time.Now(), time.Minute
				if send != "" {
					time.Sleep(40 * time.Second)
					want = 50 * time.Second // a request that has begun has 10 s
					go func() { _, _ = io.WriteString(c, send) }()
				}
				if _, err := r.ReadByte(); err != io.EOF {
					t.Errorf("the end is %v, want EOF", err)
				}
				if took := time.Since(begin); took != want {
					t.Errorf("the connection was closed after %v, want %v", took, want)
				}
				if got := <-idle; got != 1 {
					t.Errorf("it was idle %d times, want once", got)
				}
				_ = c.Close()
			})
		})
	}
}

// A request that begins on an idle connection has as much time for its head as another one.
func TestRequestsThatBeginOnIdleConnections(t *testing.T) {
	for pause, want := range map[time.Duration]bool{9 * time.Second: true, 11 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			c, r, idle := talk(http1.Options{Handle: respondOK, Stopping: never})
			if err := request200(c, r, ok, 1, 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(55 * time.Second)
			for _, first := range []int{1, len(ok) - 1} {
				if err := request200(c, r, ok, first, pause); (err == nil) != want {
					t.Errorf("a request whose %d bytes were followed by the rest after %v: %v", first, pause, err)
				}
			}
			_ = c.Close()
			<-idle
		})
	}
	synctest.Test(t, func(t *testing.T) { // and its body has no limit here
		c, r, idle := talk(http1.Options{Handle: respondOK, Stopping: never})
		post := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
		for range 3 {
			if err := request200(c, r, post, len(post)-1, 5*time.Minute); err != nil {
				t.Error(err)
			}
			time.Sleep(20 * time.Second)
		}
		_ = c.Close()
		if got := <-idle; got != 3 {
			t.Errorf("it was idle %d times, want 3", got)
		}
	})
}

// A client that leaves, or a server that closes, ends the wait.
func TestWaitEndsWithItsConnection(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			idle := make(chan int, 1)
			go func() { idle <- serveIdle(client{there}, nil, http1.Options{Handle: respondOK, Stopping: never}) }()
			if err := request200(here, bufio.NewReader(here), ok, 1, 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			begin := time.Now()
			if side == "client" {
				_ = here.Close()
			} else {
				_ = there.Close()
			}
			if got := <-idle; got != 1 || time.Since(begin) != 0 {
				t.Errorf("after the %s has closed, it was idle %d times, and ended after %v", side, got, time.Since(begin))
			}
		})
	}
}

// A server that stops answers a request that comes on an idle connection, and closes it.
func TestStopWhileConnectionsAreIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stopping atomic.Bool
		c, r, idle := talk(http1.Options{Handle: respondOK, Stopping: stopping.Load})
		if err := request200(c, r, ok, 1, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		stopping.Store(true)
		if err := request200(c, r, ok, 1, 0); err != nil {
			t.Errorf("a request on an idle connection: %v", err)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("the connection ended with %v, want EOF", err)
		}
		<-idle
	})
}

// Over TCP the kernel tells when a request has come. Requests come before, after and just when their connection becomes
// idle.
func TestIdleConnectionsOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	idle := make(chan int, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			idle <- 0
			return
		}
		c := kernelClient{client{nc}}
		idle <- serveIdle(c, c.RawConn(), http1.Options{
			Handle: respondOK, Stopping: never, IdleAfter: 2 * time.Millisecond,
		})
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		pause := time.Duration(random.IntN(100)) * time.Microsecond
		if err := request200(c, r, ok, 1+random.IntN(len(ok)-1), pause); err != nil {
			t.Fatalf("request %d: %v", n, err)
		}
		time.Sleep(time.Duration(random.IntN(4000)) * time.Microsecond)
	}
	_ = c.Close()
	if got := <-idle; got == 0 {
		t.Error("the connection was never idle")
	}
}
