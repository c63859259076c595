package gateway

import (
	"bijou.dev/services/gateway/internal/forward"
	"bijou.dev/services/gateway/internal/grpcweb"
)

// translate turns a call of gRPC-Web into one of gRPC, if the route does so. What comes after it sees only gRPC.
func (x *exchange) translate() {
	if !x.rule.GRPCWeb || x.in.Upgrade != "" {
		return
	}
	call, ok := grpcweb.Parse(x.in.Request)
	if !ok {
		return
	}
	x.in.Request, x.in.GRPC = call.Request(x.in.Request), true
	x.in.Deadline = forward.DeadlineOf(x.in.Header, x.in.Start)
	x.out.Writer = call.Writer(x.out.Writer)
}
