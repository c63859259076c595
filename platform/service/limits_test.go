package service_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
)

// raw sends text to an HTTP listener and returns the answer, and how long it took.
func raw(t *testing.T, n *memnet.Network, addr, text string) (*http.Response, string, time.Duration) {
	t.Helper()
	begin := time.Now()
	conn, err := n.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go io.WriteString(conn, text)
	_ = conn.SetReadDeadline(begin.Add(10 * time.Minute))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err.Error(), time.Since(begin)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body), time.Since(begin)
}

// Every listener bounds what comes in, whatever its handler does, and other clients are not affected.
func TestListenersBoundWhatComesIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		_, stop := run(t, standalone(n, "hello-1"), func(_ context.Context, setup *service.Setup) error {
			return setup.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				size, err := io.Copy(io.Discard, r.Body)
				var large *http.MaxBytesError
				switch {
				case errors.As(err, &large):
					w.WriteHeader(http.StatusRequestEntityTooLarge)
				case errors.Is(err, os.ErrDeadlineExceeded):
					w.WriteHeader(http.StatusRequestTimeout)
				}
				select {
				case <-time.After(5 * time.Minute): // long work, for which the body's time must not count
				case <-r.Context().Done():
					fmt.Fprint(w, "cancelled")
				}
				fmt.Fprint(w, size)
			}))
		})
		time.Sleep(time.Second)
		const post, much = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", 9 << 20
		for _, tt := range []struct {
			name, text string
			status     int // 0: no answer
			body       string
			within     time.Duration
		}{
			{"slow header", "GET / HTTP/1.1\r\nHost: x\r\na: ", 0, "", 11 * time.Second},
			{"large header", "GET / HTTP/1.1\r\nHost: x\r\na: " + strings.Repeat("a", 40<<10) + "\r\n\r\n", 431, "", 0},
			{"announced body", fmt.Sprintf(post+"Content-Length: %d\r\n\r\n", much), 413, "8 MiB", 0},
			{"body in one chunk", fmt.Sprintf(post+"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", much,
				strings.Repeat("a", much)), 413, fmt.Sprint(8 << 20), 5 * time.Minute},
			{"slow body", post + "Content-Length: 10\r\n\r\nabc", 408, "3", 6 * time.Minute},
			{"long work", post + "Content-Length: 3\r\n\r\nabc", 200, "3", 5 * time.Minute},
			{
				"long work without a body", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
				200, "0", 5 * time.Minute,
			},
		} {
			resp, body, took := raw(t, n, "hello-1:8080", tt.text)
			status := 0
			if resp != nil {
				status = resp.StatusCode
			}
			if status != tt.status || took > tt.within || !strings.Contains(body, tt.body) ||
				strings.Contains(body, "cancelled") && status != 408 {
				t.Errorf("%s: %d %q after %v, want %d %q within %v",
					tt.name, status, body, took, tt.status, tt.body, tt.within)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A listener that has all the connections it may closes further ones, counts them, and takes new ones when old ones go.
func TestListenersBoundConnections(t *testing.T) {
	n := memnet.New()
	_, stop := run(t, standalone(n, "hello-1"), greet)
	defer stop()
	var conns []net.Conn
	alive := func(c net.Conn) bool {
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if err == nil {
			_, err = http.ReadResponse(bufio.NewReader(c), nil)
		}
		return err == nil
	}
	dial := func() net.Conn {
		c, err := n.DialContext(t.Context(), "tcp", "hello-1:8080")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for range 1024 {
		c := dial()
		if !alive(c) {
			t.Fatalf("connection %d of 1024 was closed", len(conns)+1)
		}
		conns = append(conns, c)
	}
	for range 10 {
		if alive(dial()) {
			t.Fatal("more than 1024 connections are open")
		}
	}
	if _, metrics := get(t, n, "http://hello-1:9090/metrics"); !strings.Contains(metrics,
		"bijou_connections_refused_total{listener=\"http\"} 10\n") {
		t.Error("the ten are not counted")
	}
	conns[0].Close()
	for !alive(dial()) { // the server notices in a moment
		if t.Context().Err() != nil {
			t.Fatal(t.Context().Err())
		}
	}
}
