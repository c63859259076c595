package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"bijou.dev/platform/pace"
)

// faultOverload sends three times as many requests to a slow service as the edge lets through. Each response takes 50
// ms and at most 10 requests may be in flight, at most 7 of them sheddable: about 150 a second. With a limit of 10, a
// random burst can shed a critical request, so a few may fail. A higher limit would need a faster machine.
func faultOverload(t *testing.T, p platform, seed uint64) figures {
	waitForHome(t, p)
	var routes []map[string]any
	for name, criticality := range map[string]string{"page": "CRITICAL", "prefetch": "SHEDDABLE"} {
		routes = append(routes, map[string]any{
			"name": name, "match": map[string]any{"prefix": "/" + name}, "rewrite": map[string]any{"prefix": "/"},
			"to": []map[string]any{{"service": "hello", "version": "v1"}}, "criticality": criticality,
		})
	}
	defer withRoutes(t, p, routes...)()
	for _, name := range []string{"overload.limit.max", "overload.limit.min"} {
		must(t, p, "config", "set", name, "10", "--app", "gateway", "--reason", "a storm", "--wait", "20s")
		defer unset(t, p, name, "gateway")
	}
	p.(netInjector).slow(t, "hello-1", 50*time.Millisecond)
	defer p.(netInjector).resume(t, "hello-1")
	eventually(t, 20*time.Second, "the routes /page and /prefetch to work", func(ctx context.Context) error {
		a, err := get(ctx, edge(p)+"/page/version")
		if err != nil || a.status != http.StatusOK {
			return fmt.Errorf("%d %v %.200s", a.status, err, a.body)
		}
		return nil
	})

	type result struct {
		offered, good, shed int
		refusals            []time.Duration
	}
	results := [2]result{}
	var mu sync.Mutex
	var all sync.WaitGroup
	stream := func(kind int, path string, rate float64) {
		rng := rand.New(rand.NewPCG(seed, uint64(kind)))
		begun, due := time.Now(), time.Duration(0)
		for due < 20*time.Second {
			due += time.Duration(rng.ExpFloat64() / rate * float64(time.Second))
			pace.Sleep(t.Context(), time.Until(begun.Add(due))) // open loop
			all.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), within)
				defer cancel()
				start := time.Now()
				a, err := get(ctx, edge(p)+path)
				mu.Lock()
				defer mu.Unlock()
				r := &results[kind]
				r.offered++
				switch {
				case err == nil && a.status == http.StatusOK:
					r.good++
				case err == nil && a.status == http.StatusServiceUnavailable &&
					a.header.Get("X-Bijou-Fault") == "overload" && a.header.Get("Retry-After") != "":
					r.shed++
					r.refusals = append(r.refusals, time.Since(start))
				default:
					t.Logf("GET %s: status %d, error %v, body %.200s", path, a.status, err, a.body)
				}
			})
		}
	}
	all.Go(func() { stream(0, "/page/version", 30) })
	all.Go(func() { stream(1, "/prefetch/version", 420) })
	all.Wait()
	critical, sheddable := results[0], results[1]
	refusals := slices.Sorted(slices.Values(slices.Concat(critical.refusals, sheddable.refusals)))
	var p99 time.Duration
	if len(refusals) > 0 {
		p99 = refusals[len(refusals)*99/100]
	}
	share := float64(critical.good) / float64(max(1, critical.offered))
	f := figures{
		offered: critical.offered + sheddable.offered, failed: critical.offered +
			sheddable.offered - critical.good - sheddable.good,
		note: fmt.Sprintf("%.2f %% of %d critical ones served, %.1f %% of %d sheddable ones; a refusal took %v at p99",
			100*share, critical.offered, 100*float64(sheddable.good)/float64(max(1,
				sheddable.offered)), sheddable.offered, p99.Round(100*time.Microsecond)),
	}
	if share < .994 || sheddable.shed == 0 {
		f.missed = append(f.missed,
			fmt.Sprintf("critical requests: %d offered, %d served, %d shed; sheddable requests: %d offered, %d "+
				"served, %d shed",
				critical.offered, critical.good, critical.shed,
				sheddable.offered, sheddable.good, sheddable.shed))
	}
	return f
}
