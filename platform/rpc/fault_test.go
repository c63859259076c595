package rpc_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/trace"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// board answers every force.
type board struct {
	circuitsv1.UnimplementedCircuitsServer
}

func (board) Force(context.Context, *circuitsv1.ForceRequest) (*circuitsv1.ForceResponse, error) {
	return &circuitsv1.ForceResponse{}, nil
}

func TestAFaultRuleMakesAServerSlowOrWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, set := memnet.New(), config.Static(nil)
		l, err := net.Listen("tcp", "circuits:7000")
		if err != nil {
			t.Fatal(err)
		}
		srv := rpc.NewServer(rpc.ServerOptions{Config: set})
		circuitsv1.RegisterCircuitsServer(srv, board{})
		configv1.RegisterConfigServer(srv, &settings{get: func(context.Context) error { return nil }})
		go srv.Serve(l)
		defer srv.Stop()
		known := discovery.NewStatic(map[string][]discovery.Instance{"circuits": {{
			ID:        "circuits-1",
			Endpoints: map[string]string{"grpc": "circuits:7000"},
		}}})
		c := rpc.NewClient(rpc.ClientOptions{Service: "test", Discovery: known.Directory, DialContext: net.DialContext})
		conn, err := c.Dial("circuits")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		call := func() (time.Duration, error) {
			begin := time.Now()
			_, err := circuitsv1.NewCircuitsClient(conn).Force(t.Context(), &circuitsv1.ForceRequest{})
			return time.Since(begin), err
		}

		if took, err := call(); err != nil || took != 0 {
			t.Fatalf("without a rule: %v after %v", err, took)
		}
		if states := c.Balancers()["circuits"]; len(states) != 1 || states[0].ID != "circuits-1" ||
			states[0].Phase != "admitted" {
			t.Errorf("Balancers: %+v", states)
		}
		put(t, set.Put("fault.latency", "2s"))
		if took, err := call(); err != nil || took != 2*time.Second {
			t.Errorf("with fault.latency 2s: %v after %v", err, took)
		}
		set.Remove("fault.latency")
		put(t, set.Put("fault.errorPercent", "100"))
		if _, err := call(); !errors.Is(err, errs.Unavailable) || errs.Reason(err) != rpc.ReasonFault {
			t.Errorf("with fault.errorPercent 100: %v", err)
		}
		// The call that removes the rule must succeed.
		if _, err := configv1.NewConfigClient(conn).Publish(t.Context(), &configv1.PublishRequest{}); err != nil {
			t.Errorf("the settings under a fault rule: %v", err)
		}
		set.Remove("fault.errorPercent")
		if _, err := call(); err != nil {
			t.Errorf("after the rule: %v", err)
		}
		if err := set.Put("fault.errorPercent", "101"); err == nil {
			t.Error("a rule of 101 percent was taken")
		}
	})
}

func put(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A trace must show that a slow or failed call was made so on purpose.
func TestSpanShowsTheFaultRule(t *testing.T) {
	rec := tracetest.NewInMemoryExporter()
	synctest.Test(t, func(t *testing.T) {
		set := config.Static(map[string]string{"fault.latency": "2s", "fault.errorPercent": "100"})
		p, err := trace.New(trace.Options{Service: "circuits", Exporter: keep{rec}, Revision: set.Revision})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Shutdown(context.WithoutCancel(t.Context()))
		net := memnet.New()
		l, err := net.Listen("tcp", "circuits:7000")
		if err != nil {
			t.Fatal(err)
		}
		srv := rpc.NewServer(rpc.ServerOptions{Config: set, Trace: p})
		circuitsv1.RegisterCircuitsServer(srv, board{})
		go srv.Serve(l)
		defer srv.Stop()
		c := rpc.NewClient(rpc.ClientOptions{Service: "test", DialContext: net.DialContext})
		conn, err := c.Dial("passthrough:///circuits:7000")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, span := p.Tracer().Start(t.Context(), "request")
		_, _ = circuitsv1.NewCircuitsClient(conn).Force(ctx, &circuitsv1.ForceRequest{})
		span.End()
		p.Flush(t.Context())
	})
	got := map[string]string{}
	for _, s := range rec.GetSpans() {
		for _, a := range s.Attributes {
			got[string(a.Key)] = a.Value.String()
		}
	}
	if got["bijou.fault.latency"] != "2s" || got["bijou.fault.error"] != "true" {
		t.Errorf("the span has %v, want bijou.fault.latency 2s and bijou.fault.error true", got)
	}
}
