package rpc_test

import (
	"context"
	"testing"
	"testing/synctest"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/trace"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// encoding is a connection to a trace store that encodes requests as gRPC does, and accepts what can be encoded.
type encoding struct{ grpc.ClientConnInterface }

func (encoding) Invoke(_ context.Context, _ string, args, _ any, _ ...grpc.CallOption) error {
	_, err := proto.Marshal(args.(proto.Message))
	return err
}

// An error text that is not UTF-8 reaches the caller, and the spans of all calls reach the trace store.
func TestErrorTextThatIsNotUTF8(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := trace.New(trace.Options{
			Service: "test", Conn: func() grpc.ClientConnInterface { return encoding{} },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Shutdown(context.WithoutCancel(t.Context()))
		w := newWorld()
		fail := false
		w.start(t, rpc.ServerOptions{Trace: p}, func(context.Context) error {
			if fail {
				return errs.Errorf(errs.Unavailable, "reading film \xff")
			}
			return nil
		})
		c := w.client(t, rpc.ClientOptions{Trace: p})
		for _, fail = range []bool{false, true, false} {
			if _, err := c.Publish(t.Context(), &configv1.PublishRequest{}); (err != nil) != fail {
				t.Errorf("a call that must fail: %v, returns %v", fail, err)
			}
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p.Exported() != 6 || p.Dropped() != 0 {
			t.Errorf("of 6 spans %d are exported and %d dropped", p.Exported(), p.Dropped())
		}
	})
}
