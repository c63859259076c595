package discovery

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// seeds are the registries to try, in an order that is random for each process, with one connection for each seed in
// use. The watch and the registrars of a process share a connection when they use the same seed.
type seeds struct {
	order []string
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex
	conns map[string]*shared // seed -> its connection
}

type shared struct {
	*grpc.ClientConn
	users int
}

const connectTimeout = 3 * time.Second

func newSeeds(o Options) *seeds {
	s := &seeds{order: slices.Clone(o.Seeds), dial: o.DialContext, conns: map[string]*shared{}}
	rand.Shuffle(len(s.order), func(i, j int) { s.order[i], s.order[j] = s.order[j], s.order[i] })
	if s.dial == nil {
		s.dial = (&net.Dialer{}).DialContext
	}
	return s
}

// at returns the seed for the try with this number.
func (s *seeds) at(try int) string { return s.order[try%len(s.order)] }

// wait returns how long to wait after a number of consecutive failures, at least one: up to 250 ms, doubled after each
// round of all seeds, up to 10 s.
func (s *seeds) wait(failed int) time.Duration {
	return pace.Backoff{First: 250 * time.Millisecond}.At((failed - 1) / len(s.order))
}

// acquire returns the connection to a seed and a function that releases it. The last user closes it, so that the next
// try looks up the name again and does not wait for gRPC's own back-off.
func (s *seeds) acquire(seed string) (*grpc.ClientConn, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[seed]
	if c == nil {
		// passthrough: each dial looks up the name, and gRPC keeps no result.
		conn, err := grpc.NewClient("passthrough:///"+seed,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				return s.dial(ctx, "tcp", addr)
			}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout,
			}),
			// A full registry is larger than gRPC's 4 MiB.
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
			grpc.WithDisableServiceConfig(),
			// The registry is in the same network: a proxy from the environment is not used.
			grpc.WithNoProxy(),
		)
		if err != nil {
			return nil, nil, errs.Errorf(errs.Invalid, "connecting to registry %s: %w", seed, err)
		}
		c = &shared{ClientConn: conn}
		s.conns[seed] = c
	}
	c.users++
	return c.ClientConn, func() { s.release(seed, c) }, nil
}

func (s *seeds) release(seed string, c *shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.users--; c.users == 0 {
		delete(s.conns, seed)
		_ = c.Close() // an error does not matter: the streams on it have ended
	}
}
