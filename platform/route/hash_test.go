package route_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/route"
)

// hashes returns n different hashes.
func hashes(n int) []uint64 {
	all := make([]uint64, n)
	for i := range all {
		all[i] = route.HashOf(fmt.Sprint("client-", i))
	}
	return all
}

func TestHashOf(t *testing.T) {
	// All replicas of all releases must choose the same endpoint, so the value is fixed.
	if got := route.HashOf("client-0"); got != 0x1c30f0595443f3ab {
		t.Errorf("the hash of client-0 is %#x, want that of all other releases", got)
	}
	if route.HashOf("a", "b") == route.HashOf("ab") || route.HashOf("a", "") == route.HashOf("a") {
		t.Error("the hash does not depend on where a part ends")
	}
}

// homes returns the endpoint of each hash while nothing is in progress.
func homes(t *testing.T, b *route.Balancer, hashes []uint64) []string {
	t.Helper()
	ids := make([]string, len(hashes))
	for i, h := range hashes {
		p := pick(t, b, route.PickInfo{Hash: h})
		ids[i] = p.Endpoint().ID
		p.Done(route.Success)
	}
	return ids
}

func TestOneHashGoesToOneEndpoint(t *testing.T) {
	es := append(endpoints("here", "here", 3), endpoints("else", "elsewhere", 4)...)
	b := route.New(route.Options{Zone: "here"})
	b.Update(es)
	keys := hashes(1000)
	first := homes(t, b, keys)
	if again := homes(t, b, keys); !slices.Equal(again, first) {
		t.Error("the same hashes went to other endpoints the second time")
	}
	// Another process knows the endpoints in another order and zone, and has another source of random bits.
	slices.Reverse(es)
	other := route.New(route.Options{Zone: "elsewhere", Rand: seeded(9)})
	other.Update(es)
	if got := homes(t, other, keys); !slices.Equal(got, first) {
		t.Error("another balancer chose other endpoints for the same hashes")
	}
	counts := map[string]int{}
	for _, id := range first {
		counts[id]++
	}
	for _, e := range es {
		if n := counts[e.ID]; n < 100 || n > 190 {
			t.Errorf("%s got %d of 1000 hashes, want about 143", e.ID, n)
		}
	}
	p := pick(t, b, route.PickInfo{Hash: keys[0]})
	if w := p.Why(); w.Scope != route.Hashed || w.Scope.String() != "hashed" || !strings.Contains(w.String(), "hashed") {
		t.Errorf("the pick is explained by %v, want the scope hashed", w)
	}
}

// Only the hashes of an endpoint that leaves move, and they move to all others. They return with the endpoint.
func TestOnlyHashesOfTheLostEndpointMove(t *testing.T) {
	for _, n := range []int{2, 3, 10, 30} {
		all := endpoints("a", "", n)
		b := route.New(route.Options{})
		b.Update(all)
		keys := hashes(6000)
		before := homes(t, b, keys)
		b.Update(all[1:])
		after := homes(t, b, keys)
		moved, to := 0, map[string]bool{}
		for i := range keys {
			switch {
			case before[i] == "a0":
				moved++
				to[after[i]] = true
			case before[i] != after[i]:
				t.Fatalf("of %d endpoints: a hash of %s moved to %s when a0 left", n, before[i], after[i])
			}
		}
		if want := len(keys) / n; moved < want*4/5 || moved > want*6/5 {
			t.Errorf("of %d endpoints: %d of %d hashes moved, want about %d", n, moved, len(keys), want)
		}
		if len(to) != n-1 {
			t.Errorf("of %d endpoints: the hashes of a0 moved to %d others, want all %d", n, len(to), n-1)
		}
		b.Update(all)
		if got := homes(t, b, keys); !slices.Equal(got, before) {
			t.Errorf("of %d endpoints: not all hashes returned with a0", n)
		}
	}
}

// However hot a hash is, no endpoint has more than 1.25 times its part of the requests in progress, or than 8.
func TestAHotHashIsBounded(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		b := route.New(route.Options{})
		b.Update(endpoints("a", "", n))
		rnd := rand.New(rand.NewPCG(1, 1))
		keys := hashes(20)
		var open []*route.Picked
		pending := map[string]int{}
		fullest := 0
		for range 3000 {
			if len(open) > 0 && rnd.IntN(3) == 0 {
				i := rnd.IntN(len(open))
				pending[open[i].Endpoint().ID]--
				open[i].Done(route.Success)
				open = slices.Delete(open, i, i+1)
				continue
			}
			key := keys[0]
			if rnd.IntN(4) == 0 {
				key = keys[rnd.IntN(len(keys))]
			}
			p := pick(t, b, route.PickInfo{Hash: key})
			open = append(open, p)
			id := p.Endpoint().ID
			pending[id]++
			bound := max(8, (5*len(open)+4*n-1)/(4*n))
			if pending[id] > bound {
				t.Fatalf("of %d endpoints: %s has %d of %d requests, want at most %d", n, id, pending[id], len(open), bound)
			}
			if pending[id] == bound {
				fullest++
			}
		}
		if fullest == 0 {
			t.Errorf("of %d endpoints: the bound was never reached, so nothing was tested", n)
		}
	}
}

// What is beyond the bound goes to one other endpoint, not to any.
func TestOverflowOfAHashGoesToTheNextEndpoint(t *testing.T) {
	b := route.New(route.Options{})
	b.Update(endpoints("a", "", 5))
	key := hashes(1)[0]
	first := pick(t, b, route.PickInfo{Hash: key})
	for range 7 { // a browser's requests stay together
		if p := pick(t, b, route.PickInfo{Hash: key}); p.Endpoint() != first.Endpoint() {
			t.Fatalf("one of eight requests went to %s and the first to %s", p.Endpoint().ID, first.Endpoint().ID)
		}
	}
	second := pick(t, b, route.PickInfo{Hash: key})
	home, next := first.Endpoint().ID, second.Endpoint().ID
	if w := second.Why(); home == next || w.Other.ID != home || w.Scope != route.Hashed {
		t.Fatalf("the first request went to %s, the second is explained by %v, want another endpoint over the first",
			home, w)
	}
	for range 20 {
		p := pick(t, b, route.PickInfo{Hash: key, Exclude: []string{home}})
		if id := p.Endpoint().ID; id == home {
			t.Fatalf("an excluded endpoint was picked")
		}
		p.Done(route.Success)
		second.Done(route.Success)
		if second = pick(t, b, route.PickInfo{Hash: key}); second.Endpoint().ID != next {
			t.Fatalf("the overflow went to %s and then to %s", next, second.Endpoint().ID)
		}
	}
	second.Done(route.Success)
	first.Done(route.Success)
	if p := pick(t, b, route.PickInfo{Hash: key}); p.Endpoint().ID != home {
		t.Errorf("after the requests ended the hash went to %s, want %s", p.Endpoint().ID, home)
	}
}

// Streams count for the bound of streams only: most of them are idle most of the time.
func TestStreamsOfAHash(t *testing.T) {
	b := route.New(route.Options{})
	b.Update(endpoints("a", "", 3))
	key := hashes(1)[0]
	streams := map[string]int{}
	for range 30 {
		p := pick(t, b, route.PickInfo{Hash: key, Stream: true})
		p.Answered(route.Success)
		streams[p.Endpoint().ID]++
	}
	for id, n := range streams {
		if n > 13 {
			t.Errorf("%s has %d of 30 streams, want at most 13", id, n)
		}
	}
	ids := homes(t, b, []uint64{key, key, key})
	if ids[0] != ids[1] || ids[1] != ids[2] || streams[ids[0]] != 13 {
		t.Errorf("requests beside streams went to %v; streams are at %v", ids, streams)
	}
}

func TestHashesOfAnEjectedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(1)})
		b.Update(endpoints("a", "", 4))
		keys := hashes(400)
		before := homes(t, b, keys)
		kill(t, b, "a2")
		after := homes(t, b, keys)
		for i := range keys {
			if after[i] == "a2" || before[i] != "a2" && after[i] != before[i] {
				t.Fatalf("a2 is ejected, and a hash of %s went to %s", before[i], after[i])
			}
		}
		others := []string{"a0", "a1", "a3"}
		p := pick(t, b, route.PickInfo{Hash: keys[0], Exclude: others})
		if w := p.Why(); w.Chosen.ID != "a2" || w.Scope != route.Widened {
			t.Errorf("all others are excluded: %v, want the ejected one", w)
		}
		p.Done(route.Unreachable)
		time.Sleep(11 * time.Second)
		probe := pick(t, b, route.PickInfo{Hash: keys[slices.Index(before, "a0")]})
		if w := probe.Why(); w.Chosen.ID != "a2" || w.Scope != route.Probe {
			t.Errorf("after the ejection: %v, want a probe", w)
		}
		probe.Done(route.Success)
		if got := homes(t, b, keys); !slices.Equal(got, before) {
			t.Error("after the probe not all hashes returned to their endpoints")
		}
	})
}

func TestHashPicksDoNotAllocate(t *testing.T) {
	b := route.New(route.Options{})
	b.Update(endpoints("a", "", 10))
	key, exclude := hashes(1)[0], []string{"a1", "a2"}
	if n := testing.AllocsPerRun(100, func() {
		for _, info := range []route.PickInfo{{Hash: key}, {Hash: key, Exclude: exclude}} {
			p, err := b.Pick(info)
			if err != nil {
				t.Fatal(err)
			}
			p.Done(route.Success)
		}
	}); n != 0 {
		t.Errorf("two picks with a hash take %v allocations, want none", n)
	}
}
