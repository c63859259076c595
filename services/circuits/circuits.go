// Package circuits is the circuit board of the platform: every process reports the circuits of its calls and the load
// that it serves. The board shows them summed per calling service, and the load of each link between services, as of
// the last second.
//
// A process reports to one replica. Replicas watch each other, so that each of them shows everything. Nothing is
// stored: a replica that starts has the whole state a second or two later. The board only watches. When it is down,
// circuits open and close as before, because the calling process decides that.
//
// Force lets an operator open or close circuits by hand. It publishes an override with an expiry in the config service,
// which sends it to the processes, so a forced circuit stays as it is when the board goes down.
//
// # Sums
//
// Counts, concurrency and instances are added up. The error percentage is that of the sums. Loads are merged by
// platform/load: every process uses the same latency buckets, so percentiles are those of all calls together, within
// load.MaxError. The state is the worst of all, with its reason, and open_instances is the number of instances where
// the circuit is open, half-open or forced open. Settings that differ between instances are averaged if they are
// numbers, and true if one is true.
//
// A process that changes to another replica is removed by the first one when its stream ends, or when nothing came for
// 5 seconds. If the network drops packets and closes no connection, the process can be counted twice for that
// long.
package circuits

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"sync"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/service"
)

// Options configures the service. The zero value is good for a large installation.
type Options struct {
	// MaxProcesses bounds how many processes may report to one replica. Zero: 10000.
	MaxProcesses int
	// MaxStreams bounds how many watches and turbine streams one replica serves. Those of its peers are not counted.
	// Zero: 200.
	MaxStreams int
}

// complete refuses what cannot work. The defaults are those of [NewBoard].
func (o Options) complete() (Options, error) {
	var bad errs.Violations
	if o.MaxProcesses < 0 {
		bad.Add("MaxProcesses", "must not be negative")
	}
	if o.MaxStreams < 0 {
		bad.Add("MaxStreams", "must not be negative")
	}
	return o, bad.Err("options of circuits")
}

// New sets up the service: gRPC, the HTTP API on listener "http", and the exchange with other replicas.
func New(_ context.Context, setup *service.Setup, opts Options) error {
	opts, err := opts.complete()
	if err != nil {
		return err
	}
	conn, err := setup.Dial("config")
	if err != nil {
		return err
	}
	b := NewBoard(BoardOptions{
		Options: opts, Instance: setup.Instance(), Config: configv1.NewConfigClient(conn),
		Discovery: setup.Discovery(), DialContext: setup.DialContext, Log: setup.Log(),
	})
	setup.OnDrain(b.Close)
	setup.OnStop("board", func(context.Context) error { b.Close(); return nil })
	circuitsv1.RegisterCircuitsServer(setup.GRPC(), b)
	setup.Go("board", b.Run)
	return setup.Handle("http", b.Handler())
}

// BoardOptions is what a Board works with.
type BoardOptions struct {
	Options
	// Instance is this replica's id in Discovery, so that it does not watch itself. Required with Discovery.
	Instance string
	// Config publishes overrides. Required.
	Config configv1.ConfigClient
	// Discovery has the other replicas as the service "circuits". Nil: there are none.
	Discovery *discovery.Directory
	// DialContext connects to them. Required with Discovery.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Log gets processes that stop reporting, forced circuits and peers that cannot be watched. Nil: no log.
	Log *slog.Logger
}

// Board implements the contract circuitsv1.Circuits for one replica. Make one with NewBoard, run it with Run.
type Board struct {
	circuitsv1.UnimplementedCircuitsServer

	opts    BoardOptions
	log     *slog.Logger
	closing context.Context //nolint:containedctx // it ends when the board is closed, and ends all streams
	close   context.CancelFunc

	mu        sync.Mutex
	processes map[process]*report // what was reported to this replica
	peers     map[string]*view    // instance id of a peer -> what was reported to it
	streams   int                 // watches and turbine streams
}

// NewBoard returns an empty board.
func NewBoard(opts BoardOptions) *Board {
	opts.MaxProcesses = cmp.Or(opts.MaxProcesses, 10000)
	opts.MaxStreams = cmp.Or(opts.MaxStreams, 200)
	b := &Board{
		opts: opts, log: cmp.Or(opts.Log, slog.New(slog.DiscardHandler)),
		processes: map[process]*report{}, peers: map[string]*view{},
	}
	b.closing, b.close = context.WithCancel(context.Background())
	return b
}

// Close ends all streams, and refuses new ones with kind Unavailable, so that clients go to another replica.
func (b *Board) Close() { b.close() }
