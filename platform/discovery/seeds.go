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

// seeds are the registries to try, in an order of this process's own, with one connection for each that is in use. The
// watch and the registrars of a process therefore share a connection as long as they agree on the seed.
type seeds struct {
	order []string
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex
	conns map[string]*shared
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

// at returns the seed of a try.
func (s *seeds) at(try int) string { return s.order[try%len(s.order)] }

// wait returns how long to wait after a number of failures in a row, at least one: up to 250 ms, doubled up to 10 s after
// each round of all seeds.
func (s *seeds) wait(failed int) time.Duration {
	return pace.Backoff{First: 250 * time.Millisecond}.At((failed - 1) / len(s.order))
}

// acquire returns the connection to a seed and a function that gives it back; the last user closes it, so that a new try
// starts from nothing: a fresh look at DNS and no back-off of gRPC's own.
func (s *seeds) acquire(seed string) (*grpc.ClientConn, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[seed]
	if c == nil {
		// passthrough: the name is resolved by each dial, never remembered.
		conn, err := grpc.NewClient("passthrough:///"+seed,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return s.dial(ctx, "tcp", addr) }),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
			// A full registry is larger than gRPC's 4 MiB.
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
			grpc.WithDisableServiceConfig(),
			// The platform's registry is reached directly; a proxy of the environment is for other traffic.
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
		_ = c.Close() // the streams on it have ended: there is nothing left to lose
	}
}
