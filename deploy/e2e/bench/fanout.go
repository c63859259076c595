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

// watchers is how many there are of everything that watches.
const watchers = 100

// changes is how many changes are measured in a round, and spacing how far they are apart.
const (
	changes = 50
	spacing = 25 * time.Millisecond
)

// crowd are the watchers of one thing. It knows when the last of them has seen a value.
type crowd struct {
	want, left atomic.Int64
	all        chan time.Time
}

func newCrowd() *crowd { return &crowd{all: make(chan time.Time, 1)} }

// member returns what one watcher calls with each value it sees. Calls are not concurrent.
func (c *crowd) member() func(value int64) {
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

// expect makes the crowd wait for a value. It must be called before the change, and have been seen before the next.
func (c *crowd) expect(value int64) {
	c.left.Store(watchers)
	c.want.Store(value)
}

// seen returns when the last watcher saw the value.
func (c *crowd) seen(ctx context.Context) (time.Time, error) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case at := <-c.all:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	case <-t.C:
		return time.Time{}, fmt.Errorf("%d of %d watchers have not seen a change within %v", c.left.Load(), watchers, patience)
	}
}

// playEtcd is etcd as the stack runs it, with synced writes, on a folder and a port.
func playEtcd(_ context.Context, args []string, ready func(string)) error {
	dir, client, peer := args[0], args[1], args[2]
	ready(client)
	etcd.Main([]string{
		"etcd", "--data-dir=" + dir, "--log-level=error",
		"--listen-client-urls=http://" + client, "--advertise-client-urls=http://" + client,
		"--listen-peer-urls=http://" + peer, "--initial-advertise-peer-urls=http://" + peer, "--initial-cluster=default=http://" + peer,
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
	err = until(ctx, 10*time.Millisecond, "etcd", func(ctx context.Context) error { return etcd.Healthy(ctx, "http://"+client) })
	if err != nil {
		stop()
		return "", nil, err
	}
	return client, stop, nil
}

// freeAddrs returns two loopback addresses that nobody listens on. etcd cannot choose its own.
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

// rawFanOut is the floor: a put to etcd until the last of 100 clients, each with a connection and a watch of its own, has
// it.
type rawFanOut struct {
	crowd  *crowd
	writer *kvetcd.Store
	stores []*kvetcd.Store
	cancel context.CancelFunc
	done   sync.WaitGroup
	value  int64
}

const rawPrefix, rawKey = "/bench/", "/bench/value"

func newRawFanOut(ctx context.Context, endpoint string) (*rawFanOut, error) {
	watch, cancel := context.WithCancel(ctx)
	f := &rawFanOut{crowd: newCrowd(), cancel: cancel}
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
		f.done.Go(func() { follow(watch, s.Watch(watch, rawPrefix), f.crowd.member(), sync.OnceFunc(ready.Done)) })
	}
	ready.Wait() // a watch also ends, and is ready, with ctx
	return f, ctx.Err()
}

// follow tells a member of the crowd each value of the key. ready is called once the watch is there, or has ended.
func follow(ctx context.Context, w kv.Watch, tell func(int64), ready func()) {
	defer ready()
	for {
		u, err := w.Next(ctx)
		if err != nil {
			return
		}
		ready()
		for _, e := range u.Puts {
			if n, err := strconv.ParseInt(string(e.Value), 10, 64); err == nil {
				tell(n)
			}
		}
	}
}

// change puts the next value and returns when the last watcher has it.
func (f *rawFanOut) change(ctx context.Context) (time.Time, error) {
	f.value++
	f.crowd.expect(f.value)
	if _, err := f.writer.Txn(ctx, kv.Txn{Then: []kv.Op{kv.Put(rawKey, []byte(strconv.FormatInt(f.value, 10)))}}); err != nil {
		return time.Time{}, err
	}
	return f.crowd.seen(ctx)
}

func (f *rawFanOut) close() {
	f.cancel()
	f.done.Wait()
	for _, s := range f.stores {
		_ = s.Close() // it was only measured
	}
}

// spread compares a way to tell a crowd with the raw fan-out, in turns, and adds a line for each.
func (r *report) spread(ctx context.Context, endpoint, name string, change func() (time.Time, error)) (err error) {
	raw, err := newRawFanOut(ctx, endpoint)
	if err != nil {
		return errors.Join(err, errors.New("watching etcd"))
	}
	defer raw.close()
	ways := []func() (time.Time, error){func() (time.Time, error) { return raw.change(ctx) }, change}
	for _, way := range ways { // connections and caches are warm from here on
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
