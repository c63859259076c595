package limit_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"bijou.dev/services/gateway/internal/limit"
)

const second = int64(time.Second)

func TestRateAndBurst(t *testing.T) {
	r := limit.NewRates(1)
	rate := limit.Rate{Every: 100 * time.Millisecond, Burst: 3}
	for i, c := range []struct {
		at   time.Duration
		want limit.Result
	}{
		{0, limit.Result{Passes: true, Left: 2}},
		{0, limit.Result{Passes: true, Left: 1}},
		{0, limit.Result{Passes: true, Wait: 100 * time.Millisecond}},
		{0, limit.Result{Wait: 100 * time.Millisecond}},
		{40 * time.Millisecond, limit.Result{Wait: 60 * time.Millisecond}},
		{100 * time.Millisecond, limit.Result{Passes: true, Wait: 100 * time.Millisecond}},
		{250 * time.Millisecond, limit.Result{Passes: true, Wait: 50 * time.Millisecond}},
		{time.Hour, limit.Result{Passes: true, Left: 2}},
	} {
		if got := r.Take(7, second+int64(c.at), rate); got != c.want {
			t.Errorf("request %d, after %v: %+v, want %+v", i, c.at, got, c.want)
		}
	}
}

// Over a long time a key that asks much too often gets its rate, and its burst once.
func TestTheRateHoldsOverALongTime(t *testing.T) {
	r := limit.NewRates(1)
	passed := 0
	for now := second; now <= 61*second; now += int64(time.Millisecond) {
		if r.Take(7, now, limit.Rate{Every: 100 * time.Millisecond, Burst: 20}).Passes {
			passed++
		}
	}
	if passed != 20+600 {
		t.Errorf("%d of 60001 requests passed in a minute at 10 a second with a burst of 20, want 620", passed)
	}
}

func TestKeysDoNotShareARate(t *testing.T) {
	r := limit.NewRates(1 << 10)
	rate := limit.Rate{Every: time.Hour, Burst: 1}
	for key := range uint64(100) { // 0 is a key, too
		first, again := r.Take(key, second, rate), r.Take(key, second, rate)
		if !first.Passes || again.Passes {
			t.Errorf("key %d: the first passes %t, the second %t; want only the first", key, first.Passes, again.Passes)
		}
	}
}

// What the documentation says about half of the capacity, and that a key which sends much is not forgotten for many
// that send little.
func TestFewKeysAreForgotten(t *testing.T) {
	const capacity = 1 << 14
	random := rand.New(rand.NewPCG(1, 2))
	rate := limit.Rate{Every: time.Hour, Burst: 4}
	r := limit.NewRates(capacity)
	keys := make([]uint64, capacity/2)
	for i := range keys {
		keys[i] = random.Uint64()
		r.Take(keys[i], second, rate)
	}
	forgotten := 0
	for _, key := range keys {
		if r.Take(key, second, rate).Left > 2 {
			forgotten++
		}
	}
	if forgotten > 2*len(keys)/1000 {
		t.Errorf("%d of %d keys were forgotten at half of the capacity, want about 1 of 1000", forgotten, len(keys))
	}

	r = limit.NewRates(capacity)
	const busy = 42
	for range 4 {
		r.Take(busy, second, rate)
	}
	for range 10 * capacity {
		if !r.Take(random.Uint64(), second, rate).Passes {
			t.Fatal("a new key was refused, want each to pass")
		}
	}
	if r.Take(busy, second, rate).Passes {
		t.Error("a key that had used up its burst was forgotten for keys that have sent once")
	}
}

func TestDividedRates(t *testing.T) {
	for _, c := range []struct {
		n    int64
		want limit.Rate
	}{
		{1, limit.Rate{Every: time.Second, Burst: 5}},
		{2, limit.Rate{Every: 2 * time.Second, Burst: 2}},
		{10, limit.Rate{Every: 10 * time.Second, Burst: 1}},
	} {
		if got := (limit.Rate{Every: time.Second, Burst: 5}).Divided(c.n); got != c.want {
			t.Errorf("a part of %d: %+v, want %+v", c.n, got, c.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	var p limit.Places
	for i, want := range []bool{true, true, false} {
		if got := p.Take(1, 2); got != want {
			t.Errorf("place %d of 2: taken %t, want %t", i+1, got, want)
		}
	}
	if !p.Take(2, 1) {
		t.Error("another key must have places of its own")
	}
	p.Release(1)
	if !p.Take(1, 2) || p.Take(1, 2) {
		t.Error("a place that was given back must be there again, once")
	}
}

// A known key costs no allocation.
func TestCountingAllocatesNothing(t *testing.T) {
	r, p := limit.NewRates(100), limit.Places{}
	now := second
	count := func() {
		now += 1000
		r.Take(7, now, limit.Rate{Every: time.Nanosecond, Burst: 1})
		p.Take(7, 1)
		p.Release(7)
	}
	if n := testing.AllocsPerRun(1000, count); n != 0 {
		t.Errorf("%v allocations for each request, want none", n)
	}
}

func BenchmarkTake(b *testing.B) {
	r := limit.NewRates(1 << 17)
	keys := make([]uint64, 1<<16)
	for i := range keys {
		keys[i] = rand.Uint64()
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		r.Take(keys[i&(len(keys)-1)], second+int64(i), limit.Rate{Every: time.Millisecond, Burst: 10})
	}
}

func BenchmarkPlaces(b *testing.B) {
	var p limit.Places
	b.ReportAllocs()
	for b.Loop() {
		p.Take(7, 10)
		p.Release(7)
	}
}
