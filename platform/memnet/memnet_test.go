package memnet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/memnet"
)

// connect returns both ends of a connection to host.
func connect(t *testing.T, n *memnet.Network, host string) (client, server net.Conn) {
	t.Helper()
	l, err := n.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	client, err = n.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestBytesArriveInOrderAndEndWithEOF(t *testing.T) {
	client, server := connect(t, memnet.New(), "a")
	want := strings.Repeat("0123456789", 50_000) // several windows
	go func() {
		io.WriteString(client, want)
		client.Close()
	}()
	got, err := io.ReadAll(server)
	if err != nil || string(got) != want {
		t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writing to a closed peer: %v, want EPIPE", err)
	}
}

func TestAddressWithoutListenerIsRefused(t *testing.T) {
	n := memnet.New()
	if _, err := n.DialContext(t.Context(), "tcp", "a:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling an address without a listener: %v, want ECONNREFUSED", err)
	}
	l, err := n.Listen("tcp", "a:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Listen("tcp", "a:1"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listening twice: %v, want EADDRINUSE", err)
	}
	l.Close()
	if _, err := n.Listen("tcp", "a:1"); err != nil {
		t.Errorf("listening after close: %v", err)
	}
}

func TestDeadlinesInFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := connect(t, memnet.New(), "a")
		start := time.Now()
		client.SetReadDeadline(start.Add(time.Hour))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v, want a deadline", err)
		}
		if d := time.Since(start); d != time.Hour {
			t.Errorf("deadline after %v, want 1h", d)
		}
		client.SetWriteDeadline(time.Now().Add(time.Minute))
		if _, err := client.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write into a full window: %v, want a deadline", err)
		}
	})
}

func TestBytesWaitFromCutToHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		client, server := connect(t, n, "a")
		n.Cut("a")
		client.Write([]byte("late"))
		server.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := server.Read(make([]byte, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reading while cut: %v, want a deadline", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.DialContext(ctx, "tcp", "a:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dialling while cut: %v, want a deadline", err)
		}
		n.Heal("a")
		server.SetReadDeadline(time.Time{})
		got := make([]byte, 4)
		if _, err := io.ReadFull(server, got); err != nil || string(got) != "late" {
			t.Errorf("after heal: %q, %v", got, err)
		}
	})
}

// While a host is cut off, the other end does not learn that the host closed a connection, whether it reads or writes.
func TestCutHidesAClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		client, server := connect(t, n, "a")
		n.Cut("a")
		server.Close()
		if k, err := client.Write([]byte("hello?")); k != 6 || err != nil {
			t.Errorf("writing while cut: %d, %v", k, err)
		}
		client.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := client.Read(make([]byte, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reading while cut: %v, want a deadline", err)
		}
		n.Heal("a")
		if _, err := client.Write([]byte("hello?")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("writing after heal: %v", err)
		}
		client.SetReadDeadline(time.Time{})
		if _, err := client.Read(make([]byte, 4)); !errors.Is(err, io.EOF) {
			t.Errorf("reading after heal: %v", err)
		}
	})
}

// A dial at the moment when its listener closes is refused, or its connection is closed: it must not wait for an Accept
// that never comes.
func TestDialDuringCloseOfItsListenerEnds(t *testing.T) {
	n := memnet.New()
	for range 2000 {
		l, err := n.Listen("tcp", "a:1")
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			if c, err := n.DialContext(t.Context(), "tcp", "a:1"); err == nil {
				c.Read(make([]byte, 1))
			}
		}()
		runtime.Gosched()
		l.Close()
		select {
		case <-read:
		case <-time.After(5 * time.Second):
			t.Fatal("a connection that is never accepted was not closed")
		}
	}
}

func Example() {
	n := memnet.New()
	l, _ := n.Listen("tcp", "shop:80")
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "open")
	})}
	go srv.Serve(l)
	defer srv.Close()

	client := &http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
	resp, err := client.Get("http://shop:80/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(string(body))
	// Output: open
}
