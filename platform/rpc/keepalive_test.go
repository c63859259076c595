package rpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/rpc"
)

// watchUntil keeps each Watch open until its context ends, and then says so.
type watchUntil struct {
	configv1.UnimplementedConfigServer
	ended chan struct{}
}

func (w watchUntil) Watch(stream configv1.Config_WatchServer) error {
	_ = stream.Send(&configv1.WatchResponse{Revision: 1})
	<-stream.Context().Done()
	close(w.ended)
	return nil
}

// A connection without an answer is closed by both ends: the client pings after 10 s without a message and waits 3 s,
// the server pings after 30 s and waits 5 s. Else a call without a deadline would wait until TCP gives up.
func TestSilentConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, impl := newWorld(), watchUntil{ended: make(chan struct{})}
		w.startServer(t, rpc.ServerOptions{}, impl)
		stream, err := w.client(t, rpc.ClientOptions{}).Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		w.net.Cut("config-1")
		cut := time.Now()
		_, err = stream.Recv()
		if took := time.Since(cut); !errors.Is(err, errs.Unavailable) || took > 13*time.Second ||
			took < 10*time.Second {
			t.Errorf("the call ends %v after the network, with %v; want Unavailable after 10 to 13 s", took, err)
		}
		<-impl.ended
		if took := time.Since(cut); took > 35*time.Second || took < 30*time.Second {
			t.Errorf("the server ends the call %v after the network; want 30 to 35 s", took)
		}
	})
}

// pings opens a connection by hand and sends pings, the given time apart. It returns how many were answered before the
// server closed the connection, at most n.
func pings(t *testing.T, conn net.Conn, apart time.Duration, n int) (answered int) {
	t.Helper()
	const typeSettings, typePing, typeGoAway, ack = 4, 6, 7, 1
	frame := func(kind, flags byte, body []byte) error {
		head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))[1:]
		_, err := conn.Write(append(append(append(head, kind, flags), 0, 0, 0, 0), body...))
		return err
	}
	_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	_ = frame(typeSettings, 0, nil)
	var sender sync.WaitGroup
	sender.Go(func() {
		for range n {
			if frame(typePing, 0, make([]byte, 8)) != nil {
				return
			}
			time.Sleep(apart)
		}
		_ = conn.Close()
	})
	defer sender.Wait()
	defer conn.Close()
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(conn, head); err != nil {
			return answered
		}
		body := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(conn, body); err != nil {
			return answered
		}
		switch {
		case head[3] == typePing && head[4] == ack:
			answered++
		case head[3] == typeGoAway:
			return answered
		}
	}
}

// Clients ping connections without calls every 10 s. One that pings more often than every 5 s is disconnected.
func TestPingsOfAClient(t *testing.T) {
	for _, tt := range []struct {
		apart time.Duration
		all   bool
	}{{10 * time.Second, true}, {5 * time.Second, true}, {4900 * time.Millisecond, false}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.start(t, rpc.ServerOptions{}, ok)
			conn, err := w.net.DialContext(context.WithoutCancel(t.Context()), "tcp", "config-1:7000")
			if err != nil {
				t.Fatal(err)
			}
			const n = 20
			if got := pings(t, conn, tt.apart, n); (got == n) != tt.all {
				t.Errorf("%d of %d pings, %v apart, are answered; want all: %v", got, n, tt.apart, tt.all)
			}
		})
	}
}
