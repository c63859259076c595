package rpc_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/rpc"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// An address may belong to another service by the time a caller uses it. That one refuses, and the call is made
// elsewhere, also one that must not be made twice.
func TestCallsForOthersAreRefusedAndMadeElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var wrong, right atomic.Int64
		w.start(t, rpc.ServerOptions{Service: "ratings"}, func(context.Context) error { wrong.Add(1); return nil })
		w.start(t, rpc.ServerOptions{Service: "config"}, func(context.Context) error { right.Add(1); return nil })
		ask := w.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})})
		for range 20 {
			if _, err := ask.Publish(t.Context(), &configv1.PublishRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		if wrong.Load() != 0 || right.Load() != 20 {
			t.Errorf("another service answered %d calls, the right one %d of 20", wrong.Load(), right.Load())
		}
	})
}

// Without another instance, the error names the instance that answered. The caller of this caller must not retry.
func TestCallsForOthersSayWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back, front := newWorld(), newWorld()
		back.start(t, rpc.ServerOptions{Service: "ratings"}, ok)
		behind := back.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})})
		var begun atomic.Int64
		for range 2 {
			front.start(t, rpc.ServerOptions{Service: "config"}, func(ctx context.Context) error {
				begun.Add(1)
				_, err := behind.Publish(ctx, &configv1.PublishRequest{})
				return err
			})
		}
		_, err := front.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})}).Publish(t.Context(),
			&configv1.PublishRequest{})
		if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(),
			"this is an instance of ratings, not of config") || errs.Reason(err) != "" {
			t.Errorf("got %v, reason %q", err, errs.Reason(err))
		}
		if n := begun.Load(); n != 1 {
			t.Errorf("the call was begun %d times", n)
		}
	})
}

// A call to an address is for any instance that listens there.
func TestCallsToAnAddressAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.start(t, rpc.ServerOptions{Service: "ratings"}, ok)
		for _, name := range []string{"", "config", "localhost:8080", "www.example.com", "bijou"} {
			conn, err := grpc.NewClient("passthrough:///config-1:7000",
				grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(name),
				grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
					return w.net.DialContext(ctx,
						"tcp", addr)
				}))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
				t.Errorf("with the authority %q: %v", name, err)
			}
			conn.Close()
		}
	})
}
