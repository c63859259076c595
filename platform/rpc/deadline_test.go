package rpc_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/rpc"

	"google.golang.org/grpc"
	grpcencoding "google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// A caller says how long it waits. Each process on the way passes on what is left of that, and when it is over all of
// them stop, the last one too, although it has said nothing yet.
func TestTheDeadlineGoesWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back, front := newWorld(), newWorld()
		var left time.Duration
		var stopped time.Time
		back.start(t, rpc.ServerOptions{}, func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			<-ctx.Done()
			stopped = time.Now()
			return ctx.Err()
		})
		behind := back.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})})
		front.start(t, rpc.ServerOptions{}, func(ctx context.Context) error {
			time.Sleep(300 * time.Millisecond) // its own work
			_, err := behind.Get(ctx, &configv1.GetRequest{})
			return err
		})
		ctx, cancel := context.WithTimeout(t.Context(), 800*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := front.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})}).Get(ctx,
			&configv1.GetRequest{})
		if !errors.Is(err, errs.Timeout) {
			t.Errorf("got %v, want a time-out", err)
		}
		synctest.Wait()
		if left > 500*time.Millisecond || left < 490*time.Millisecond {
			t.Errorf("of 800 ms, with 300 ms spent, the second callee was given %v", left)
		}
		if took := stopped.Sub(begin); took != 800*time.Millisecond {
			t.Errorf("the second callee stopped after %v, want 800ms", took)
		}
	})
}

// slowCodec is protobuf, but takes two seconds to decode a request. A server that is short of CPU looks like that.
type slowCodec struct{ grpcencoding.CodecV2 }

func (slowCodec) Name() string { return "slow" }

func (c slowCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if _, request := v.(*configv1.GetRequest); request {
		time.Sleep(2 * time.Second)
	}
	return c.CodecV2.Unmarshal(data, v)
}

func init() { grpcencoding.RegisterCodecV2(slowCodec{grpcencoding.GetCodecV2("proto")}) }

// grpc-go refuses a call whose deadline has passed when it arrives, and one whose message arrives too late. If the
// deadline passes while it decodes the message, it refuses about half of the calls: it reads on in a select of the end
// of the stream and the end of the deadline. The others are refused by the server's own step.
func TestServerRefusesCallsWhoseDeadlineHasPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		impl, _ := w.start(t, rpc.ServerOptions{}, ok)
		c := w.client(t, rpc.ClientOptions{})
		call := func(timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			_, err := c.Get(ctx, &configv1.GetRequest{}, grpc.CallContentSubtype("slow"))
			return err
		}
		for range 20 {
			if err := call(time.Second); !errors.Is(err, errs.Timeout) {
				t.Errorf("the caller got %v, want a time-out", err)
			}
			time.Sleep(2 * time.Second) // the server has decoded the request
		}
		if n := impl.calls.Load(); n != 0 {
			t.Errorf("of 20 expired calls the handler got %d, want 0", n)
		}
		if err := call(3 * time.Second); err != nil || impl.calls.Load() != 1 {
			t.Errorf("a call with enough time: %v after %d calls of the handler, want one", err, impl.calls.Load())
		}
	})
}

// A caller that has no time left must not take a place in the bulkhead, and the callee is not to blame.
func TestExpiredCallsDoNotReachTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		impl, _ := w.start(t, rpc.ServerOptions{}, ok)
		circuits := circuit.New(circuit.Options{})
		c := w.client(t, rpc.ClientOptions{Circuits: circuits})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Get(ctx, &configv1.GetRequest{}); !errors.Is(err, errs.Canceled) {
			t.Errorf("a call whose context was cancelled: %v, want kind Canceled", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), -time.Second)
		defer cancel()
		if _, err := c.Get(ctx, &configv1.GetRequest{}); !errors.Is(err, errs.Timeout) {
			t.Errorf("a call whose deadline has passed: %v, want kind Timeout", err)
		}
		if n := impl.calls.Load(); n != 0 {
			t.Errorf("the server was called %d times, want 0", n)
		}
		if all := circuits.Snapshots(); len(all) != 0 {
			t.Errorf("the calls made a circuit: %v", all)
		}
	})
}
