package route

import (
	"context"
	"slices"
)

// Call goes with the context of one RPC, down to the balancer of its connection and back: it narrows the pick, and
// it says which instance was picked and why. Use one Call for each attempt. Set the embedded PickInfo before the
// attempt; read the rest after it, or in the attempt's own interceptors once its stream exists.
type Call struct {
	PickInfo

	picked Picked
}

// Endpoint returns the instance that was picked; false if the attempt has not got as far.
func (c *Call) Endpoint() (Endpoint, bool) { return c.picked.Endpoint(), c.picked.m != nil }

// Why explains the pick. The zero Why if there was none.
func (c *Call) Why() Why { return c.picked.Why() }

type callKey struct{}

// WithCall attaches c to an RPC's context, in place of any Call there.
func WithCall(ctx context.Context, c *Call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// WithExclude rules out endpoints, in addition to those that ctx rules out already. It attaches a new Call.
func WithExclude(ctx context.Context, ids ...string) context.Context {
	c := &Call{PickInfo: infoOf(ctx)}
	c.Exclude = slices.Concat(c.Exclude, ids)
	return WithCall(ctx, c)
}

// WithVersion pins a version. It attaches a new Call.
func WithVersion(ctx context.Context, version string) context.Context {
	c := &Call{PickInfo: infoOf(ctx)}
	c.Version = version
	return WithCall(ctx, c)
}

// CallOf returns the Call attached to ctx; false if there is none.
func CallOf(ctx context.Context) (*Call, bool) {
	c, ok := ctx.Value(callKey{}).(*Call)
	return c, ok
}

func infoOf(ctx context.Context) PickInfo {
	if c, ok := CallOf(ctx); ok {
		return c.PickInfo
	}
	return PickInfo{}
}
