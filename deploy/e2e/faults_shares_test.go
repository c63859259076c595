package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bijou.dev/deploy/e2e/peers"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/pace"
	"bijou.dev/services/gateway"
	"bijou.dev/services/gateway/routes"
)

// shareFaults are what one URL, or one client, does to all others of the same route. Each row starts an edge before two
// instances of a site on real sockets. With -faults it then measures the same with other proxies, see [peers].
var shareFaults = []fault{
	{
		row: "41", name: "one URL answers 500 and is requested 50 times a second", short: true,
		run: func(t *testing.T, _ platform, seed uint64) figures {
			return faultOfOne(t, seed, 50, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
			})
		},
	},
	{
		row: "42", name: "one URL takes 10 s and is requested 50 times a second", short: true,
		run: func(t *testing.T, _ platform, seed uint64) figures {
			return faultOfOne(t, seed, 50, func(_ http.ResponseWriter, r *http.Request) {
				pace.Sleep(r.Context(), 10*time.Second)
			})
		},
	},
	{row: "43", name: "one client with 500 connections", short: true, run: faultGreedyClient},
}

// workers is how many requests an instance of a site works on at once; others wait, as with most servers outside Go. An
// instance without a limit would hide what a proxy lets through. With fewer than what one URL may hold at the edge (80
// requests, with the default limits) others may wait: the balancer weighs requests in progress by the latency of those
// that have ended, so nearly all that hang may be at the instance that was the faster one before.
const workers = 96

// startSite starts two instances that serve mux, and returns their addresses.
func startSite(t *testing.T, mux http.Handler) (instances []string) {
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		free := make(chan struct{}, workers)
		s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter,
			r *http.Request,
		) {
			select {
			case free <- struct{}{}:
			case <-r.Context().Done():
				return
			}
			defer func() { <-free }()
			mux.ServeHTTP(w, r)
		})}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
		instances = append(instances, l.Addr().String())
	}
	return instances
}

// startEdge starts an edge before instances, and returns its URL.
func startEdge(t *testing.T, instances []string) string {
	list := []discovery.Instance{}
	for i, addr := range instances {
		list = append(list, discovery.Instance{
			Service: "site", ID: fmt.Sprintf("site-%d", i), Status: discovery.Up,
			Endpoints: map[string]string{"http": addr},
		})
	}
	edge, err := gateway.NewEdge(gateway.EdgeOptions{
		Options:   gateway.Options{Routes: routes.Routes{{Name: "site", To: []routes.Target{{Service: "site"}}}}},
		Discovery: discovery.NewStatic(map[string][]discovery.Instance{"site": list}).Directory,
		Seed:      1, // with 1 of a hundred seeds two of the paths share places
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = edge.Serve(l) }()
	t.Cleanup(func() { _ = edge.Close() })
	return "http://" + l.Addr().String()
}

// besidePeers calls measure with other proxies before the same instances, one after the other, and adds their figures
// to the note of f. It does so only with -faults. A proxy that is missing or does not start fails the row.
func (f *figures) besidePeers(t *testing.T, instances []string, measure func(base string) figures) {
	if *faultsFile == "" {
		return
	}
	var others []string
	for _, name := range peers.Names {
		p, err := peers.Start(t.Context(), name, peers.Options{
			Dir: filepath.Join(root, ".bijou", "peers"), Origins: instances,
		})
		if err != nil {
			f.missed = append(f.missed, "not measured beside another proxy: "+err.Error())
			continue
		}
		r := measure("http://" + p.HTTP)
		p.Stop()
		others = append(others, fmt.Sprintf("%s %d of %d, %v", name, r.failed, r.offered,
			r.during.Round(time.Millisecond)))
	}
	f.note += "; failed of offered and p99 during it with other proxies: " + strings.Join(others, "; ")
}

// clientFrom returns a client whose connections come from an address of this machine.
func clientFrom(addr string) *http.Client {
	dial := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	return &http.Client{Transport: &http.Transport{DialContext: dial.DialContext, MaxIdleConnsPerHost: 1000}}
}

// othersRate is how many requests per second others send.
const othersRate = 30

// othersKeep measures pages that others request before, during and after what disturb does.
func othersKeep(t *testing.T, seed uint64, base string, m measured, disturb func(ctx context.Context)) figures {
	const calm, disturbed = 2 * time.Second, 8 * time.Second
	o := startOfferOf(t, seed, m, pagesOf(base)...)
	o.runFor(t, calm)
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	busy.Go(func() { disturb(ctx) })
	o.runFor(t, disturbed)
	cancel()
	busy.Wait()
	healed := time.Since(o.begun)
	o.runFor(t, calm)
	all := o.end()
	before, during := windowOf(all, 0, calm), windowOf(all, calm, healed)
	after := windowOf(all, healed, time.Hour)
	f := figures{
		offered: during.offered, failed: during.failed, before: before.p99, during: during.p99, after: after.p99,
	}
	if during.offered < 8 || during.failed*100 > during.offered {
		f.missed = append(f.missed, fmt.Sprintf("%d of %d requests of others failed, at most 1 %% may: %v", during.failed,
			during.offered, during.why))
	}
	if after.failed > 0 {
		f.missed = append(f.missed, fmt.Sprintf("%d of %d requests failed afterwards: %v", after.failed, after.offered,
			after.why))
	}
	return f
}

func pagesOf(base string) []string { return []string{base + "/", base + "/films", base + "/about"} }

// othersOf is what others can expect of a site on this machine just now. With -faults the load must be the same for all
// proxies, and the machine is quiet.
func othersOf(t *testing.T, urls ...string) measured {
	if *faultsFile != "" {
		return measured{rate: othersRate, within: within}
	}
	return measure(t, othersRate, urls...)
}

func faultOfOne(t *testing.T, seed uint64, rate int, bad http.HandlerFunc) figures {
	mux := http.NewServeMux()
	mux.HandleFunc("/report/slow", bad)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	instances := startSite(t, mux)
	var sent, refused atomic.Int64
	measure := func(base string) figures {
		sent.Store(0)
		refused.Store(0)
		return othersKeep(t, seed, base, othersOf(t, pagesOf(base)...), func(ctx context.Context) {
			var requests sync.WaitGroup
			for i := 0; ctx.Err() == nil; i++ {
				c := clientFrom(fmt.Sprintf("127.0.1.%d", 1+i%200))
				requests.Go(func() {
					defer c.CloseIdleConnections()
					if status, _ := statusOf(ctx, c, base+"/report/slow"); status == http.StatusServiceUnavailable {
						refused.Add(1)
					}
					sent.Add(1)
				})
				pace.Sleep(ctx, time.Second/time.Duration(rate))
			}
			requests.Wait()
		})
	}
	f := measure(startEdge(t, instances))
	f.note = fmt.Sprintf("%d requests for the URL, %d of them refused by the edge", sent.Load(), refused.Load())
	f.besidePeers(t, instances, measure)
	return f
}

func faultGreedyClient(t *testing.T, _ platform, seed uint64) figures {
	mux := http.NewServeMux()
	var slow, sent, refused atomic.Int64
	slow.Store(1)
	mux.HandleFunc("/quick", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		pace.Sleep(r.Context(), time.Duration(slow.Load())*300*time.Millisecond) // work that keeps a place
		_, _ = io.WriteString(w, "ok")
	})
	instances := startSite(t, mux)
	measure := func(base string) figures {
		sent.Store(0)
		refused.Store(0)
		m := othersOf(t, base+"/quick")
		if m.capacity > 0 { // 0: it was not measured
			// The row is about places. With work that is too short for a slow machine it would be about CPU time.
			slow.Store(max(1, int64(1000/m.capacity)))
			m.within *= time.Duration(slow.Load())
		}
		return othersKeep(t, seed, base, m, func(ctx context.Context) {
			c := clientFrom("127.0.2.1")
			defer c.CloseIdleConnections()
			var connections sync.WaitGroup
			for range 500 {
				connections.Go(func() {
					for ctx.Err() == nil {
						status, err := statusOf(ctx, c, base+"/films")
						if errors.Is(err, context.Canceled) {
							return
						}
						sent.Add(1)
						if status != http.StatusOK {
							refused.Add(1)
							// it is greedy, not an attack on the CPU
							pace.Sleep(ctx, time.Duration(slow.Load())*2*time.Second)
						}
					}
				})
			}
			connections.Wait()
		})
	}
	f := measure(startEdge(t, instances))
	f.note = fmt.Sprintf("%d requests of the client, %d of them refused by the edge", sent.Load(), refused.Load())
	if refused.Load() == 0 {
		f.missed = append(f.missed, "no request of the client was refused")
	}
	f.besidePeers(t, instances, measure)
	return f
}

func statusOf(ctx context.Context, c *http.Client, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}
