package route_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"bijou.dev/platform/route"
)

// BenchmarkPick measures Pick and Done, beside what a simple balancer costs: round robin is the floor, power of two
// choices on pending requests the alternative.
func BenchmarkPick(b *testing.B) {
	for _, n := range []int{3, 10, 30} {
		es := append(endpoints("here", "here", n-n/3), endpoints("else", "elsewhere", n/3)...)
		b.Run(fmt.Sprintf("floor=roundRobin/n=%d", n), func(b *testing.B) {
			var next atomic.Uint64
			for b.Loop() {
				sink = es[next.Add(1)%uint64(n)].ID
			}
		})
		b.Run(fmt.Sprintf("leastLoaded/n=%d", n), func(b *testing.B) {
			pending := make([]atomic.Int64, n)
			for b.Loop() {
				i, j := rand.IntN(n), rand.IntN(n)
				if pending[j].Load() < pending[i].Load() {
					i = j
				}
				pending[i].Add(1)
				sink = es[i].ID
				pending[i].Add(-1)
			}
		})
		bench := func(name string, o route.Options, info route.PickInfo) {
			b.Run(fmt.Sprintf("%s/n=%d", name, n), func(b *testing.B) {
				core := route.New(o)
				core.Update(es)
				b.ReportAllocs()
				for b.Loop() {
					p, err := core.Pick(info)
					if err != nil {
						b.Fatal(err)
					}
					p.Done(route.Success)
				}
			})
		}
		bench("route", route.Options{}, route.PickInfo{})
		bench("routeZone", route.Options{Zone: "here"}, route.PickInfo{})
		bench("routeExclude", route.Options{}, route.PickInfo{Exclude: []string{"here1"}})
	}
}

// BenchmarkPickHashed measures Pick and Done of requests with a hash, which look at every endpoint.
func BenchmarkPickHashed(b *testing.B) {
	for _, n := range []int{3, 30, 300} {
		core := route.New(route.Options{})
		core.Update(endpoints("a", "", n))
		bench := func(name string, exclude []string) {
			b.Run(fmt.Sprintf("%s/n=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				hash := uint64(0)
				for b.Loop() {
					hash += 0x9e3779b97f4a7c15
					p, err := core.Pick(route.PickInfo{Hash: hash | 1, Exclude: exclude})
					if err != nil {
						b.Fatal(err)
					}
					p.Done(route.Success)
				}
			})
		}
		bench("hash", nil)
		bench("hashExclude", []string{"a1"})
	}
}

// BenchmarkPickParallel is the same from all processors at once.
func BenchmarkPickParallel(b *testing.B) {
	es := endpoints("a", "", 10)
	b.Run("floor=roundRobin", func(b *testing.B) {
		var next atomic.Uint64
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = es[next.Add(1)%10].ID
			}
		})
	})
	b.Run("route", func(b *testing.B) {
		core := route.New(route.Options{})
		core.Update(es)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				p, _ := core.Pick(route.PickInfo{})
				p.Done(route.Success)
			}
		})
	})
}

var sink string
