package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// keep makes a connection that is kept after its first response, and returns a function that sends another request.
func (w *world) keep(c net.Conn) (ask func() error, responses *bufio.Reader) {
	w.t.Helper()
	responses = bufio.NewReader(c)
	ask = func() error {
		if _, err := io.WriteString(c, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		res, err := http.ReadResponse(responses, nil)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if text, err := io.ReadAll(res.Body); err != nil || string(text) != "ok" {
			return fmt.Errorf("status %d, %q, %w", res.StatusCode, text, err)
		}
		return nil
	}
	if err := ask(); err != nil {
		w.t.Fatal(err)
	}
	return ask, responses
}

// Connections that are idle for long answer requests, without TLS and with it.
func TestIdleConnectionsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, _ := newTLSWorld(t, toWeb)
		w.origin("web", "web-1", "", responds("ok"))
		secure, err := w.handshake(&tls.Config{ServerName: "www.example.org", RootCAs: a.pool})
		if err != nil {
			t.Fatal(err)
		}
		plainAsk, _ := w.keep(w.dial())
		secureAsk, _ := w.keep(secure)
		for _, pause := range []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, 59 * time.Second} {
			time.Sleep(pause)
			if err := plainAsk(); err != nil {
				t.Errorf("%v after the request before: %v", pause, err)
			}
			if err := secureAsk(); err != nil {
				t.Errorf("%v after the request before, with TLS: %v", pause, err)
			}
		}
		if n := w.metric("bijou_gateway_connections_open"); n != 2 {
			t.Errorf("%v connections are open, want 2", n)
		}
		time.Sleep(61 * time.Second)
		if n := w.metric("bijou_gateway_connections_open"); n != 0 {
			t.Errorf("a minute after the last request %v connections are open, want none", n)
		}
	})
}

// A stop closes connections that are idle at once, however long they have been idle.
func TestStopClosesIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, _ := newTLSWorld(t, toWeb)
		w.origin("web", "web-1", "", responds("ok"))
		var ends []*bufio.Reader
		for range 10 {
			secure, err := w.handshake(&tls.Config{ServerName: "www.example.org", RootCAs: a.pool})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []net.Conn{w.dial(), secure} {
				_, responses := w.keep(c)
				ends = append(ends, responses)
			}
			time.Sleep(time.Second)
		}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := w.edge.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the stop took %v", took)
		}
		for i, r := range ends {
			if b, err := r.ReadByte(); err == nil {
				t.Errorf("connection %d got the byte %x, want its end", i, b)
			}
		}
	})
}

// A client that closes an idle connection frees its place, and an idle connection makes room for a new one.
func TestIdleConnectionsFreeTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "gateway.maxConnections", "2")
		w.origin("web", "web-1", "", responds("ok"))
		first := w.dial()
		w.keep(first)
		w.keep(w.dial())
		time.Sleep(10 * time.Second)
		_ = first.Close()
		synctest.Wait()
		if n := w.metric("bijou_gateway_connections_open"); n != 1 {
			t.Errorf("after one of two idle clients has left, %v connections are open", n)
		}
		w.keep(w.dial())
		w.keep(w.dial())
		if n := w.metric("bijou_gateway_connections_idle_closed_total"); n != 1 {
			t.Errorf("%v idle connections were closed to make room, want 1", n)
		}
	})
}
