package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/rpc"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// assertBalancers checks how many services a client has balancers of.
func assertBalancers(t *testing.T, c *rpc.Client, when string, want int) {
	t.Helper()
	if got := c.Balancers(); len(got) != want {
		t.Errorf("%s, the client has %d balancers, want %d: %v", when, len(got), want, got)
	}
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.start(t, rpc.ServerOptions{}, ok)
		c := rpc.NewClient(rpc.ClientOptions{
			Service: "test", Discovery: w.discovery.Directory,
			DialContext: w.net.DialContext,
		})
		dial := func(target string) *rpc.Conn {
			t.Helper()
			conn, err := c.Dial(target)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		for i := range 100 {
			conn := dial(fmt.Sprintf("service-%d", i)) // one that is never used
			assertBalancers(t, c, "with an open connection", 1)
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
		}
		assertBalancers(t, c, "after 100 connections were closed", 0)

		first, second := dial("config"), dial("config")
		if _, err := configv1.NewConfigClient(first).Get(t.Context(), &configv1.GetRequest{}); err != nil {
			t.Fatal(err)
		}
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
		if states := c.Balancers()["config"]; len(states) != 1 || states[0].ID != "config-1" {
			t.Errorf("after the second of two connections was closed, Balancers has %v, want config-1 of the first", states)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		assertBalancers(t, c, "after both connections were closed", 0)
	})
}

// A callee may be an address, so that their number is not bounded by the number of services.
func TestTheRetriesOfAClosedConnectionAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for range 2 {
			w.start(t, rpc.ServerOptions{}, unavailable)
		}
		c := rpc.NewClient(rpc.ClientOptions{
			Service: "test", Discovery: w.discovery.Directory, DialContext: w.net.DialContext,
			Circuits: circuit.New(circuit.Options{}), Metrics: w.metrics,
		})
		series := func(when string, want int) {
			t.Helper()
			got, err := testutil.GatherAndCount(w.metrics, "bijou_rpc_client_retries_total")
			if err != nil || got != want {
				t.Errorf("%s, there are %d series of retries (%v), want %d", when, got, err, want)
			}
		}
		var conns [2]*rpc.Conn
		for i := range conns {
			var err error
			if conns[i], err = c.Dial("config"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := configv1.NewConfigClient(conns[0]).Get(t.Context(), &configv1.GetRequest{}); !errors.Is(err,
			errs.Unavailable) {
			t.Fatalf("a call to failing instances: %v", err)
		}
		series("after a call that was retried", 1)
		conns[0].Close()
		series("with one connection to the callee left", 1)
		conns[1].Close()
		series("after the last connection to the callee was closed", 0)
	})
}

func TestAClosedConnectionRefusesCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.start(t, rpc.ServerOptions{}, ok)
		c := rpc.NewClient(rpc.ClientOptions{
			Service: "test", Discovery: w.discovery.Directory,
			DialContext: w.net.DialContext,
		})
		conn, err := c.Dial("config")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if err := conn.Close(); err != nil {
			t.Errorf("closing twice: %v, want nil", err)
		}
		_, err = configv1.NewConfigClient(conn).Get(t.Context(), &configv1.GetRequest{})
		if !errors.Is(err, errs.Canceled) {
			t.Errorf("a call after Close: %v, want kind Canceled", err)
		}
		if _, err := configv1.NewConfigClient(conn).Watch(t.Context()); !errors.Is(err, errs.Canceled) {
			t.Errorf("a stream after Close: %v, want kind Canceled", err)
		}
	})
}

func TestTargetsThatCannotBeDialled(t *testing.T) {
	c := rpc.NewClient(rpc.ClientOptions{Service: "test"})
	for target, want := range map[string]error{"catalog": errs.Invalid, "dns:///%": errs.Invalid} {
		if _, err := c.Dial(target); !errors.Is(err, want) {
			t.Errorf("Dial(%q): %v, want %v", target, err, want)
		}
		assertBalancers(t, c, "after a failed Dial", 0)
	}
}

// watchOnce ends each Watch after one message.
type watchOnce struct {
	configv1.UnimplementedConfigServer
}

func (watchOnce) Watch(stream configv1.Config_WatchServer) error {
	return stream.Send(&configv1.WatchResponse{Revision: 1})
}

// Receivers compare the end of a stream with io.EOF.
func TestTheEndOfAStreamIsEOF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.startServer(t, rpc.ServerOptions{}, watchOnce{})
		stream, err := w.client(t, rpc.ClientOptions{}).Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); err != nil || m.GetRevision() != 1 {
			t.Errorf("the first message: revision %d, %v", m.GetRevision(), err)
		}
		if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // generated code returns it as it is
			t.Errorf("after the last message: %v, want io.EOF itself", err)
		}
	})
}

// A second attempt is for calls that matter: under overload the others would only add load.
func TestShedCallsOfLowCriticalityAreNotRetried(t *testing.T) {
	for c, want := range map[overload.Criticality]int64{
		overload.Sheddable: 1, overload.SheddablePlus: 1, overload.Critical: 2, overload.CriticalPlus: 2,
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			var attempts atomic.Int64
			for range 2 {
				w.start(t, rpc.ServerOptions{}, func(context.Context) error {
					attempts.Add(1)
					return errs.Errorf(errs.Exhausted, "refusing Get: too much to do").Because(circuit.ReasonShed)
				})
			}
			client := w.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})})
			_, _ = client.Get(overload.With(t.Context(), c), &configv1.GetRequest{})
			if n := attempts.Load(); n != want {
				t.Errorf("a %v call that each of two instances sheds: %d attempts, want %d", c, n, want)
			}
		})
	}
}
