// Package grpcwebtest makes calls of gRPC-Web through the edge with the client of another project, connect-go. It is a
// module of its own, so that the gateway does not depend on that project.
package grpcwebtest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/memnet"
	"bijou.dev/services/gateway"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// text is the message of all methods.
type text = wrapperspb.StringValue

// service has a method with one message each way, and one that answers a message with three.
var service = grpc.ServiceDesc{
	ServiceName: "test.v1.Web", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, ctx context.Context, dec func(any) error,
		_ grpc.UnaryServerInterceptor,
	) (any, error) {
		in := new(text)
		if err := dec(in); err != nil {
			return nil, err
		}
		if err := grpc.SetHeader(ctx, metadata.Pairs("x-header", "h")); err != nil {
			return nil, err
		}
		if err := grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t", "x-bytes-bin", "\x00\xff")); err != nil {
			return nil, err
		}
		if in.GetValue() != "missing" {
			return in, nil
		}
		s, err := status.New(codes.NotFound, "no such thing: 100 %").WithDetails(in)
		if err != nil {
			return nil, err
		}
		return nil, s.Err()
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Three", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		in := new(text)
		if err := s.RecvMsg(in); err != nil {
			return err
		}
		for range 3 {
			if err := s.SendMsg(in); err != nil {
				return err
			}
		}
		return status.Error(codes.Aborted, "enough")
	}}},
}

// newEdge returns a client of an edge with the service behind it.
func newEdge(t *testing.T, h2 bool) *http.Client {
	t.Helper()
	network := memnet.New()
	l, err := network.Listen("tcp", "web-1:80")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	srv.RegisterService(&service, nil)
	serve(t, func() error { return srv.Serve(l) }, srv.Stop)
	edge, err := gateway.NewEdge(gateway.EdgeOptions{
		Config: config.Static(map[string]string{
			"gateway.routes": `[{"name":"web","to":[{"service":"web","endpoint":"grpc"}],"grpcWeb":true}]`,
		}),
		Discovery: discovery.NewStatic(map[string][]discovery.Instance{
			"web": {{ID: "web-1", Endpoints: map[string]string{"grpc": "web-1:80"}}},
		}).Directory,
		DialContext: network.DialContext,
	})
	if err != nil {
		t.Fatal(err)
	}
	front, err := network.Listen("tcp", "edge:80")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, func() error { return edge.Serve(front) }, func() {
		if err := edge.Close(); err != nil {
			t.Error(err)
		}
	})
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network_, _ string) (net.Conn, error) {
			return network.DialContext(ctx, network_, "edge:80")
		},
		Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// serve runs a server until the test ends.
func serve(t *testing.T, run func() error, stop func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- run() }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestConnectClientCallsThroughTheEdge(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		web := newEdge(t, h2)
		echo := connect.NewClient[text, text](web, "http://edge/test.v1.Web/Echo", connect.WithGRPCWeb())
		res, err := echo.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("hi")))
		if err != nil || res.Msg.GetValue() != "hi" {
			t.Fatalf("HTTP/2 %t: got %v, %v; want hi", h2, res, err)
		}
		if res.Header().Get("X-Header") != "h" || res.Trailer().Get("X-Trailer") != "t" ||
			res.Trailer().Get("X-Bytes-Bin") != "AP8" {
			t.Errorf("HTTP/2 %t: metadata: header %v, trailer %v", h2, res.Header(), res.Trailer())
		}
		_, err = echo.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("missing")))
		var failure *connect.Error
		if !errors.As(err, &failure) || failure.Code() != connect.CodeNotFound ||
			failure.Message() != "no such thing: 100 %" || len(failure.Details()) != 1 {
			t.Errorf("HTTP/2 %t: an error: got %v, want NOT_FOUND with its message and one detail", h2, err)
		}
		three := connect.NewClient[text, text](web, "http://edge/test.v1.Web/Three", connect.WithGRPCWeb())
		stream, err := three.CallServerStream(t.Context(), connect.NewRequest(wrapperspb.String("again")))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for stream.Receive() {
			n++
		}
		if err := stream.Err(); n != 3 || connect.CodeOf(err) != connect.CodeAborted || errors.Is(err, io.EOF) {
			t.Errorf("HTTP/2 %t: a stream: got %d messages and %v, want 3 and ABORTED", h2, n, err)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		none := connect.NewClient[text, text](web, "http://edge/test.v1.Web/Nothing", connect.WithGRPCWeb())
		if _, err := none.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("hi"))); connect.CodeOf(err) !=
			connect.CodeUnimplemented {
			t.Errorf("HTTP/2 %t: a method that there is not: got %v, want UNIMPLEMENTED", h2, err)
		}
	}
}
