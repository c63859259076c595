package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/service"
	"bijou.dev/services/config"

	"google.golang.org/protobuf/types/known/durationpb"
)

// runConfig runs a replica of the service config over the etcd in args.
func runConfig(ctx context.Context, args []string, ready func(string)) error {
	return member(ctx, "config", "grpc", nil, func(ctx context.Context, setup *service.Setup) error {
		return config.New(ctx, setup, config.Options{EtcdEndpoints: args})
	}, ready)
}

// followers are 100 sets of settings, each with its own connection, as in 100 processes.
type followers struct {
	watcherSet *watcherSet
	config     configv1.ConfigClient
	conns      []*rpc.Conn
	cancel     context.CancelFunc
	done       sync.WaitGroup
	value      int64
	acked      []time.Duration // per change: until the publisher knew that all sets have it
}

const followed = "bench.value"

func newFollowers(ctx context.Context, addr string) (*followers, error) {
	run, cancel := context.WithCancel(ctx)
	f := &followers{watcherSet: newWatcherSet(), cancel: cancel}
	sets := make([]*settings.LiveSet, watchers)
	for i := range sets {
		conn, err := f.dial(addr)
		if err != nil {
			f.close()
			return nil, err
		}
		id := &configv1.Identity{
			App: "bench", Instance: fmt.Sprintf("bench-%d", i), Environment: "local", Region: "local",
			Zone: "a", Version: "v1",
		}
		set, err := settings.Open(settings.Options{Identity: id, Conn: conn})
		if err != nil {
			f.close()
			return nil, err
		}
		see := f.watcherSet.member()
		settings.Int(set, followed, 0, settings.Spec{Doc: "A number that grows."}).Watch(func(_, v int64) { see(v) })
		f.done.Go(func() { _ = set.Run(run) }) // Run returns nil
		sets[i] = set
	}
	conn, err := f.dial(addr)
	if err != nil {
		f.close()
		return nil, err
	}
	f.config = configv1.NewConfigClient(conn)
	err = until(ctx, 20*time.Millisecond, "100 sets to connect", func(ctx context.Context) error {
		for _, s := range sets {
			if ok, _ := s.Connected(); !ok {
				return s.Problem()
			}
		}
		_, err := f.config.Publish(ctx, f.request(true))
		return err
	})
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *followers) dial(addr string) (*rpc.Conn, error) {
	conn, err := rpc.NewClient(rpc.ClientOptions{Service: "bench"}).Dial("passthrough:///" + addr)
	if err == nil {
		f.conns = append(f.conns, conn)
	}
	return conn, err
}

func (f *followers) request(dry bool) *configv1.PublishRequest {
	return &configv1.PublishRequest{Author: "bench", Reason: "measuring", DryRun: dry, Changes: []*configv1.Change{{
		Name: followed, Scope: &configv1.Scope{
			Layer: configv1.Layer_LAYER_APP,
			App:   "bench",
		}, Value: strconv.FormatInt(f.value, 10),
	}}}
}

// change publishes the next value and returns when the last set uses it. It adds the time until the publisher knows
// that to acked.
func (f *followers) change(ctx context.Context) (time.Time, error) {
	f.value++
	f.watcherSet.expect(f.value)
	start := time.Now()
	resp, err := f.config.Publish(ctx, f.request(false))
	if err != nil {
		return time.Time{}, err
	}
	st, err := f.config.Status(ctx, &configv1.StatusRequest{
		App: "bench", Revision: resp.GetRevision(),
		Wait: durationpb.New(patience),
	})
	if err != nil {
		return time.Time{}, err
	}
	if st.GetCurrent() != watchers || st.GetTotal() != watchers {
		return time.Time{}, fmt.Errorf("%d of %d sets are on revision %d after %v; all %d should be", st.GetCurrent(),
			st.GetTotal(), resp.GetRevision(), patience, watchers)
	}
	f.acked = append(f.acked, time.Since(start))
	return f.watcherSet.seen(ctx)
}

func (f *followers) close() {
	f.cancel()
	f.done.Wait()
	for _, c := range f.conns {
		_ = c.Close()
	}
}

func benchPublish(ctx context.Context, r *report) error {
	endpoint, stop, err := startEtcd(ctx)
	if err != nil {
		return err
	}
	defer stop()
	replica, err := spawn(ctx, "config", endpoint)
	if err != nil {
		return err
	}
	defer replica.kill()
	f, err := newFollowers(ctx, replica.addr)
	if err != nil {
		return err
	}
	defer f.close()
	if err := r.spread(ctx, endpoint, "publish to the last set in use",
		func() (time.Time, error) { return f.change(ctx) }); err != nil {
		return err
	}
	acked := latencies{}
	for round := range r.rounds {
		acked.add(f.acked[changes/2+round*changes:][:changes])
	}
	r.add("publish to all acknowledged", acked.figures()...)
	return nil
}
