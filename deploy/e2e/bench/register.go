package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/service"
	registry "bijou.dev/services/discovery"
)

// runDiscovery runs a replica of the registry over the etcd in args.
func runDiscovery(ctx context.Context, args []string, ready func(string)) error {
	return member(ctx, "discovery", "grpc", []string{"http"}, func(ctx context.Context, setup *service.Setup) error {
		return registry.New(ctx, setup, registry.Options{EtcdEndpoints: args})
	}, ready)
}

// callers are 100 clients of the registry, each with its own connection, as in 100 processes.
type callers struct {
	watcherSet *watcherSet
	clients    []*discovery.Client // the last one registers
	cancel     context.CancelFunc
	done       sync.WaitGroup
	value      int64
}

const wanted = "catalog"

func newCallers(ctx context.Context, addr string) (*callers, error) {
	run, cancel := context.WithCancel(ctx)
	c := &callers{watcherSet: newWatcherSet(), cancel: cancel}
	for i := range watchers + 1 {
		client, err := discovery.New(discovery.Options{Seeds: []string{addr}, Name: fmt.Sprintf("bench/bench-%d", i)})
		if err != nil {
			c.close()
			return nil, err
		}
		c.clients = append(c.clients, client)
		c.done.Go(func() { _ = client.Run(run) }) // Run returns nil
	}
	for _, client := range c.clients[:watchers] {
		see := c.watcherSet.member()
		client.Watch(wanted, func(list []discovery.Instance) { see(present(list)) })
	}
	err := until(ctx, 20*time.Millisecond, "100 callers to connect", func(context.Context) error {
		for _, client := range c.clients {
			if err := client.Synced(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// present returns the number of the instance that is up, or 0.
func present(list []discovery.Instance) int64 {
	for _, in := range list {
		if n, err := strconv.ParseInt(in.ID, 10, 64); err == nil && in.Status == discovery.Up && !in.Suspect {
			return n
		}
	}
	return 0
}

// change registers an instance and returns when the last caller has it as up. Then it deregisters the instance, which
// is not measured.
func (c *callers) change(ctx context.Context) (time.Time, error) {
	c.value++
	c.watcherSet.expect(c.value)
	r, err := discovery.NewRegistrar(c.clients[watchers], discovery.Instance{
		Service: wanted, ID: strconv.FormatInt(c.value, 10), Zone: "a", Version: "v1", Status: discovery.Up,
		Endpoints: map[string]string{"grpc": "127.0.0.1:7000", "admin": "127.0.0.1:9090"},
	}, discovery.RegistrarOptions{})
	if err != nil {
		return time.Time{}, err
	}
	run, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { _ = r.Run(run) }) // Run returns nil
	defer done.Wait()
	defer cancel()
	at, err := c.watcherSet.seen(ctx)
	if err != nil {
		return at, err
	}
	c.watcherSet.expect(0)
	leave, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if err := r.Drain(leave); err != nil { // callers keep an instance that is removed while UP, as after a crash
		return at, err
	}
	if _, err := c.watcherSet.seen(ctx); err != nil {
		return at, err
	}
	return at, r.Leave(leave)
}

func (c *callers) close() {
	c.cancel()
	c.done.Wait()
}

func benchRegister(ctx context.Context, r *report) error {
	endpoint, stop, err := startEtcd(ctx)
	if err != nil {
		return err
	}
	defer stop()
	replica, err := spawn(ctx, "discovery", endpoint)
	if err != nil {
		return err
	}
	defer replica.kill()
	c, err := newCallers(ctx, replica.addr)
	if err != nil {
		return err
	}
	defer c.close()
	return r.spread(ctx, endpoint, "register to the last caller", func() (time.Time, error) { return c.change(ctx) })
}
