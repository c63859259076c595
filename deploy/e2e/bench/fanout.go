package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvetcd"
	"bijou.dev/services/etcd"
)

// watchers is the number of watchers in each section.
const watchers = 100

// changes is the number of changes per round, and spacing the time between them.
const (
	changes = 50
	spacing = 25 * time.Millisecond
)

// watcherSet are all watchers of a value. It reports when the last of them has seen a new value.
type watcherSet struct {
	want, left atomic.Int64
	all        chan time.Time
}

func newWatcherSet() *watcherSet { return &watcherSet{all: make(chan time.Time, 1)} }

// member returns the function that one watcher calls with each value that it sees. One watcher must not call it
// concurrently.
func (c *watcherSet) member() func(value int64) {
	last := int64(-1)
	return func(value int64) {
		if value == last {
			return
		}
		last = value
		if value == c.want.Load() && c.left.Add(-1) == 0 {
			c.all <- time.Now()
		}
	}
}

// expect sets the value to wait for. It must be called before the change, and seen must return before the next call.
func (c *watcherSet) expect(value int64) {
	c.left.Store(watchers)
	c.want.Store(value)
}

// seen returns when the last watcher saw the value.
func (c *watcherSet) seen(ctx context.Context) (time.Time, error) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case at := <-c.all:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	case <-t.C:
		return time.Time{}, fmt.Errorf("%d of %d watchers have not seen a change within %v", c.left.Load(), watchers,
			patience)
	}
}

// runEtcd runs etcd as the stack does, with synced writes, on a folder, a client address and a peer address.
func runEtcd(_ context.Context, args []string, ready func(string)) error {
	dir, client, peer := args[0], args[1], args[2]
	ready(client)
	etcd.Main([]string{
		"etcd", "--data-dir=" + dir, "--log-level=error",
		"--listen-client-urls=http://" + client, "--advertise-client-urls=http://" + client,
		"--listen-peer-urls=http://" + peer, "--initial-advertise-peer-urls=http://" +
			peer, "--initial-cluster=default=http://" + peer,
	}, nil, os.Stderr)
	return errCut
}

// startEtcd starts etcd on an empty folder and waits until it serves. The caller calls stop.
func startEtcd(ctx context.Context) (endpoint string, stop func(), err error) {
	client, peer, err := freeAddrs()
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "bijou-bench")
	if err != nil {
		return "", nil, err
	}
	p, err := spawn(ctx, "etcd", dir, client, peer)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() {
		p.kill()
		_ = os.RemoveAll(dir) // a temporary folder
	}
	err = until(ctx, 10*time.Millisecond, "etcd", func(ctx context.Context) error {
		return etcd.Healthy(ctx,
			"http://"+client)
	})
	if err != nil {
		stop()
		return "", nil, err
	}
	return client, stop, nil
}

// freeAddrs returns two free loopback addresses. etcd cannot choose its own.
func freeAddrs() (a, b string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer l.Close()
	m, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer m.Close()
	return l.Addr().String(), m.Addr().String(), nil
}

// rawFanOut is the floor: the time from a put to etcd until the last of 100 clients, each with its own connection and
// watch, has the value.
type rawFanOut struct {
	watcherSet *watcherSet
	writer     *kvetcd.Store
	stores     []*kvetcd.Store
	cancel     context.CancelFunc
	done       sync.WaitGroup
	value      int64
}

const rawPrefix, rawKey = "/bench/", "/bench/value"

func newRawFanOut(ctx context.Context, endpoint string) (*rawFanOut, error) {
	watch, cancel := context.WithCancel(ctx)
	f := &rawFanOut{watcherSet: newWatcherSet(), cancel: cancel}
	var ready sync.WaitGroup
	for range watchers + 1 {
		s, err := kvetcd.New(kvetcd.Options{Endpoints: []string{endpoint}})
		if err != nil {
			f.close()
			return nil, err
		}
		f.stores = append(f.stores, s)
	}
	f.writer = f.stores[watchers]
	for _, s := range f.stores[:watchers] {
		ready.Add(1)
		f.done.Go(func() { follow(watch, s.Watch(watch, rawPrefix), f.watcherSet.member(), sync.OnceFunc(ready.Done)) })
	}
	ready.Wait() // ready is also called when a watch ends with ctx
	return f, ctx.Err()
}

// follow calls see with each value of the key. ready is called when the watch has begun, or has ended.
func follow(ctx context.Context, w kv.Watch, see func(int64), ready func()) {
	defer ready()
	for {
		u, err := w.Next(ctx)
		if err != nil {
			return
		}
		ready()
		for _, e := range u.Puts {
			if n, err := strconv.ParseInt(string(e.Value), 10, 64); err == nil {
				see(n)
			}
		}
	}
}

// change puts the next value and returns when the last watcher has it.
func (f *rawFanOut) change(ctx context.Context) (time.Time, error) {
	f.value++
	f.watcherSet.expect(f.value)
	if _, err := f.writer.Txn(ctx, kv.Txn{Then: []kv.Op{kv.Put(rawKey,
		[]byte(strconv.FormatInt(f.value, 10)))}}); err != nil {
		return time.Time{}, err
	}
	return f.watcherSet.seen(ctx)
}

func (f *rawFanOut) close() {
	f.cancel()
	f.done.Wait()
	for _, s := range f.stores {
		_ = s.Close() // nothing is to be written
	}
}

// spread compares a way to distribute a change with the raw fan-out, in turns, and adds a line for each.
func (r *report) spread(ctx context.Context, endpoint, name string, change func() (time.Time, error)) (err error) {
	raw, err := newRawFanOut(ctx, endpoint)
	if err != nil {
		return errors.Join(err, errors.New("watching etcd"))
	}
	defer raw.close()
	ways := []func() (time.Time, error){func() (time.Time, error) { return raw.change(ctx) }, change}
	for _, way := range ways { // warm up connections and caches
		if _, err := paced(ctx, changes/2, spacing, way); err != nil {
			return err
		}
	}
	took := make([]latencies, len(ways))
	err = turns(ctx, r.rounds, len(ways), func(i int) error {
		round, err := paced(ctx, changes, spacing, ways[i])
		took[i].add(round)
		return err
	})
	if err != nil {
		return err
	}
	r.add("etcd put to the last watch", took[0].figures()...)
	r.add(name, took[1].figures()...)
	return nil
}
