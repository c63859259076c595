package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// socketPath is where a site accepts WebSockets.
const socketPath = "/films/socket"

// runSite is the origin of all proxies: pages and WebSockets over HTTP/1.1, and the health service over gRPC. Its
// address is that of HTTP, a space, and that of gRPC.
func runSite(ctx context.Context, _ []string, ready func(string)) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	calls := grpc.NewServer()
	healthv1.RegisterHealthServer(calls, health.NewServer())
	defer context.AfterFunc(ctx, calls.Stop)()
	mux := http.NewServeMux()
	mux.HandleFunc("/", servePage)
	mux.HandleFunc(socketPath, func(w http.ResponseWriter, r *http.Request) {
		c, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return // the client sees the response
		}
		_, _, _ = c.ReadMessage() // until the client disconnects
		_ = c.Close()
	})
	var g errgroup.Group
	g.Go(func() error { return calls.Serve(l) })
	g.Go(func() error {
		return serveHTTP(ctx, func(addr string) { ready(addr + " " + l.Addr().String()) }, mux)
	})
	return g.Wait()
}

// runLoad sends requests of a kind to an address for a duration: its arguments. What it passes to ready is the number
// of responses.
func runLoad(ctx context.Context, args []string, ready func(string)) error {
	kind, addr := args[0], args[1]
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	var n int64
	end := time.Now().Add(d)
	switch kind {
	case "small":
		n, err = load(ctx, addr, small, end)
	case "large":
		n, err = load(ctx, addr, large, end)
	default:
		n, err = loadCalls(ctx, addr, end)
	}
	if err != nil {
		return err
	}
	ready(strconv.FormatInt(n, 10))
	return nil
}

// Calls of gRPC are made as many at once as there are connections of HTTP/1.1, over fewer connections.
const (
	callConnections    = 4
	callsPerConnection = connections / callConnections
)

// loadCalls makes unary calls until end, and returns their number.
func loadCalls(ctx context.Context, addr string, end time.Time) (int64, error) {
	return concurrently(ctx, end, callConnections, func(ctx context.Context) (int64, error) {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		client := healthv1.NewHealthClient(conn)
		return concurrently(ctx, end, callsPerConnection, func(ctx context.Context) (n int64, err error) {
			for ; err == nil && time.Now().Before(end); n++ {
				_, err = client.Check(ctx, &healthv1.HealthCheckRequest{})
			}
			return n, err
		})
	})
}

// idleAddresses is from how many addresses of this machine idle connections come. A proxy may limit those of one.
const idleAddresses = 20

// runIdle opens connections of a kind to an address, and keeps them open without sending anything. Its arguments are
// the kind, the address and the number. It is ready when all are open. It is an error if the other side closes one.
func runIdle(ctx context.Context, args []string, ready func(string)) error {
	kind, addr := args[0], args[1]
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	open := openPage
	if kind == "WebSocket" {
		open = openSocket
	}
	g, dialing := errgroup.WithContext(ctx)
	conns := make([]net.Conn, n)
	for a := range idleAddresses {
		g.Go(func() error {
			d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 4, byte(a+1))}}
			for i := a; i < n; i += idleAddresses {
				conn, err := d.DialContext(dialing, "tcp", addr)
				if err != nil {
					return err
				}
				conns[i] = conn
				if err := open(conn); err != nil {
					return fmt.Errorf("opening connection %d of %d: %w", i+1, n, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	ready("all are open")
	closed := make(chan struct{}, n)
	for _, conn := range conns {
		go func() {
			_, _ = io.Copy(io.Discard, conn) // until it is closed, by either side
			closed <- struct{}{}
		}()
	}
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	select {
	case <-closed:
		return errors.New("an idle connection was closed before its memory was measured")
	case <-ctx.Done():
		return nil
	}
}

// openPage makes one request on a connection, which the server then keeps.
func openPage(conn net.Conn) error {
	if _, err := conn.Write(small.request()); err != nil {
		return err
	}
	return small.read(bufio.NewReader(conn), make([]byte, len(small.body)))
}

// openSocket makes a connection a WebSocket.
func openSocket(conn net.Conn) error {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: cinema.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", socketPath, base64.StdEncoding.EncodeToString(key))
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %s, want 101", resp.Status)
	}
	return nil
}
