package load_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/load"
	"google.golang.org/protobuf/proto"
)

// latencies returns n latencies from microseconds to minutes, most of them between 1 and 100 ms.
func latencies(seed uint64, n int) []time.Duration {
	r := rand.New(rand.NewPCG(seed, 1))
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = time.Duration(math.Exp(r.NormFloat64()*2+16)) % (130 * time.Second)
	}
	return all
}

func histogramOf(all []time.Duration) *load.Histogram {
	var h load.Histogram
	for _, d := range all {
		h.Record(d)
	}
	return &h
}

// assertPercentiles compares the percentiles of h with those of the latencies themselves.
func assertPercentiles(t *testing.T, h *load.Histogram, all []time.Duration) {
	t.Helper()
	all = slices.Sorted(slices.Values(all))
	for _, p := range []float64{0, 0.1, 1, 25, 50, 90, 99, 99.9, 100} {
		rank := max(1, int(math.Ceil(p/100*float64(len(all)))))
		want, got := all[rank-1], h.Percentile(p)
		allowed := max(time.Duration(load.MaxError*float64(want)), 8192*time.Nanosecond)
		if d := got - want; d < -allowed || d > allowed {
			t.Errorf("percentile %v of %d latencies is %v, want %v within %v", p, len(all), got, want, allowed)
		}
	}
}

func TestPercentilesAreWithinTheStatedError(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 100, 10_000} {
		all := latencies(uint64(n), n)
		assertPercentiles(t, histogramOf(all), all)
	}
}

func TestMergedPercentilesAreThoseOfAllCalls(t *testing.T) {
	// A fast instance with many calls and a slow one with few: the mean of their p99 would be far off.
	fast, slow := latencies(1, 5000), []time.Duration{}
	for _, d := range latencies(2, 200) {
		slow = append(slow, d+time.Second)
	}
	merged := histogramOf(fast)
	merged.Merge(histogramOf(slow))
	all := slices.Concat(fast, slow)
	assertPercentiles(t, merged, all)
	if merged.Count() != uint64(len(all)) {
		t.Errorf("the merged histogram has %d calls, want %d", merged.Count(), len(all))
	}
	if got, want := merged.Mean(), histogramOf(all).Mean(); (got - want).Abs() > time.Microsecond {
		t.Errorf("the merged mean is %v, that of all calls %v", got, want)
	}
	empty := load.Histogram{}
	empty.Merge(merged)
	if empty != *merged {
		t.Error("merging into an empty histogram does not give a copy")
	}
	merged.Merge(&load.Histogram{})
	if empty != *merged {
		t.Error("merging an empty histogram changes something")
	}
}

func TestHistogramBounds(t *testing.T) {
	var h load.Histogram
	if h.Percentile(50) != 0 || h.Mean() != 0 || h.Count() != 0 {
		t.Errorf("an empty histogram has p50 %v, mean %v, count %d; want zeros", h.Percentile(50), h.Mean(), h.Count())
	}
	h.Record(-time.Second)
	if h.Percentile(100) != 0 {
		t.Errorf("a negative latency counts as %v, want 0", h.Percentile(100))
	}
	h.Record(time.Hour)
	if got := h.Percentile(99); got != time.Hour {
		t.Errorf("p99 of 0 and 1h is %v, want 1h although the last bucket starts at 137 s", got)
	}
}

func TestRecordDoesNotAllocate(t *testing.T) {
	var m load.Meter
	m.Record(0, load.Succeeded, time.Millisecond)
	now := time.Duration(0)
	if n := testing.AllocsPerRun(100, func() {
		now += 100 * time.Millisecond
		m.Record(now, load.Failed, time.Millisecond)
	}); n > 0 {
		t.Errorf("recording a call makes %v allocations, want none", n)
	}
}

func TestLoadFigures(t *testing.T) {
	var m load.Meter
	at := 5 * time.Second
	for range 80 {
		m.Record(at, load.Succeeded, 10*time.Millisecond)
	}
	for range 10 {
		m.Record(at, load.Failed, time.Second)
	}
	for range 10 {
		m.Record(at, load.Rejected, time.Hour)
		m.Fallback(at)
	}
	l := m.Load(12 * time.Second)
	for name, figure := range map[string]struct{ got, want float64 }{
		"calls per second":     {l.Rate(), 10},
		"error percentage":     {l.ErrorPercent(), 20},
		"rejected per second":  {l.RejectedRate(), 1},
		"fallbacks per second": {l.FallbackRate(), 1},
		"calls with a latency": {float64(l.Latency.Count()), 90},
	} {
		if figure.got != figure.want {
			t.Errorf("%s: got %v, want %v", name, figure.got, figure.want)
		}
	}
	if p50 := l.P50(); p50 < 9*time.Millisecond || p50 > 11*time.Millisecond {
		t.Errorf("p50 is %v, want 10ms: rejected calls have no latency", p50)
	}
	if p99 := l.P99(); p99 < 900*time.Millisecond || p99 > time.Second {
		t.Errorf("p99 is %v, want 1s within %v of it", p99, load.MaxError)
	}
	if none := (&load.Load{}); none.ErrorPercent() != 0 {
		t.Errorf("without calls the error percentage is %v, want 0", none.ErrorPercent())
	}
}

func TestMeterCoversTenCompleteSeconds(t *testing.T) {
	var m load.Meter
	// Ten calls in each second from the start, spread over the second.
	for i := range 300 {
		m.Record(time.Duration(i)*100*time.Millisecond, load.Succeeded, time.Millisecond)
		now := time.Duration(i)*100*time.Millisecond + 50*time.Millisecond
		l := m.Load(now)
		complete := min(now.Truncate(time.Second), load.Window)
		if l.Measured != complete || l.Known() != (now >= load.Window) {
			t.Fatalf("after %v, measured is %v and known %t; want %v and %t",
				now, l.Measured, l.Known(), complete, now >= load.Window)
		}
		if want := uint64(10 * complete.Seconds()); l.Calls != want {
			t.Fatalf("after %v at 10 calls per second the load has %d calls, want %d", now, l.Calls, want)
		}
	}
	if l := m.Load(time.Minute); !l.Known() || l.Calls != 0 {
		t.Errorf("half a minute after the last call: known %t with %d calls, want known with 0", l.Known(), l.Calls)
	}
}

func TestLoadIsMeasuringUntilTheWindowIsComplete(t *testing.T) {
	var started, running load.Meter
	young, old := started.Load(3*time.Second), running.Load(time.Hour)
	if young.Known() {
		t.Error("a load of three seconds is known, want measuring")
	}
	if zero := (load.Load{}); zero.Known() {
		t.Error("a load that was never measured is known, want measuring")
	}
	young.Add(&old)
	if !young.Known() {
		t.Error("a link with an instance that covers the window is measuring, want known: " +
			"the other instance had no calls before it started")
	}
}

func TestProtoRoundTrip(t *testing.T) {
	var m load.Meter
	for i, d := range latencies(3, 1000) {
		m.Record(time.Duration(i)*10*time.Millisecond, load.Outcome(i%3), d)
		m.Fallback(time.Duration(i) * 10 * time.Millisecond)
	}
	for _, now := range []time.Duration{0, 5 * time.Second, 10 * time.Second, time.Hour} {
		want := m.Load(now)
		if err := load.Validate(want.Proto()); err != nil {
			t.Errorf("after %v: %v", now, err)
		}
		var got load.Load
		got.AddProto(want.Proto())
		if got != want {
			t.Errorf("after %v the message has %d calls, p50 %v; want %d, %v",
				now, got.Calls, got.P50(), want.Calls, want.P50())
		}
	}
	var none load.Load
	if none.AddProto(nil); none.Known() || load.Validate(nil) != nil {
		t.Errorf("no message gives known %t, error %v; want a load that is measuring", none.Known(), load.Validate(nil))
	}
}

func TestAddedMessagesAreThoseOfAllCalls(t *testing.T) {
	var one, two, both load.Meter
	for i, d := range latencies(5, 2000) {
		now, outcome := time.Duration(i)*5*time.Millisecond, load.Outcome(i%3)
		both.Record(now, outcome, d)
		if i%5 == 0 {
			one.Record(now, outcome, d)
		} else {
			two.Record(now, outcome, d)
		}
	}
	first, second, want := one.Load(load.Window), two.Load(load.Window), both.Load(load.Window)
	var got load.Load
	got.AddProto(first.Proto())
	got.AddProto(second.Proto())
	if !proto.Equal(got.Figures(), want.Figures()) {
		t.Errorf("two instances together have %v, want %v", got.Figures(), want.Figures())
	}
}

func TestValidateRefusesWhatCannotBe(t *testing.T) {
	var m load.Meter
	for i := range 10 {
		m.Record(0, load.Outcome(i%2), time.Duration(i+1)*time.Millisecond)
	}
	l := m.Load(load.Window)
	for name, spoil := range map[string]func(*circuitsv1.Load){
		"negative time":                func(p *circuitsv1.Load) { p.Measured.Seconds = -1 },
		"too many calls":               func(p *circuitsv1.Load) { p.Calls = math.MaxUint64 },
		"too many fallbacks":           func(p *circuitsv1.Load) { p.Fallbacks = math.MaxUint64 },
		"more failures than calls":     func(p *circuitsv1.Load) { p.Failures = p.Calls + 1 },
		"failures and rejected":        func(p *circuitsv1.Load) { p.Rejected = p.Calls },
		"more latencies than calls":    func(p *circuitsv1.Load) { p.Calls, p.Failures = 1, 0 },
		"a bucket out of range":        func(p *circuitsv1.Load) { p.Latency.First = 1 << 31 },
		"too many buckets":             func(p *circuitsv1.Load) { p.Latency.Counts = make([]uint64, 1000) },
		"no buckets":                   func(p *circuitsv1.Load) { p.Latency.Counts = nil },
		"too many in a bucket":         func(p *circuitsv1.Load) { p.Latency.Counts[1] = math.MaxUint64 },
		"a negative minimum":           func(p *circuitsv1.Load) { p.Latency.MinNs = -1 },
		"min outside its bucket":       func(p *circuitsv1.Load) { p.Latency.MinNs = 1 },
		"max outside its bucket":       func(p *circuitsv1.Load) { p.Latency.MaxNs = 1 << 60 },
		"min above max":                func(p *circuitsv1.Load) { p.Latency.MinNs = 1 << 60 },
		"an infinite sum":              func(p *circuitsv1.Load) { p.Latency.SumNs = math.Inf(1) },
		"a sum that is not a number":   func(p *circuitsv1.Load) { p.Latency.SumNs = math.NaN() },
		"an empty bucket at the front": func(p *circuitsv1.Load) { p.Latency.Counts[0] = 0 },
	} {
		p := l.Proto()
		spoil(p)
		if err := load.Validate(p); err == nil {
			t.Errorf("%s: valid, want an error", name)
		}
		var sum load.Load
		if sum.AddProto(p); sum != (load.Load{}) {
			t.Errorf("%s: a load that is not valid was added", name)
		}
	}
}

func TestFigures(t *testing.T) {
	var m load.Meter
	for i := range 70 {
		outcome := load.Succeeded
		if i%7 == 0 {
			outcome = load.Failed
		}
		m.Record(0, outcome, 20*time.Millisecond)
	}
	if l := m.Load(5 * time.Second); l.Figures() != nil {
		t.Errorf("after 5 s the figures are %v, want none: it is measuring", l.Figures())
	}
	ms := 20.0
	l := m.Load(load.Window)
	want := &circuitsv1.Figures{CallsPerSecond: 7, ErrorPercent: 14.3, P50Ms: &ms, P90Ms: &ms, P99Ms: &ms}
	if got := l.Figures(); !proto.Equal(got, want) {
		t.Errorf("figures are %v, want %v", got, want)
	}
	idle := m.Load(time.Minute)
	if got := idle.Figures(); !proto.Equal(got, &circuitsv1.Figures{}) {
		t.Errorf("without calls the figures are %v, want no calls and no percentiles", got)
	}
}

func TestRecorderMeasuresFromItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := load.NewRecorder()
		time.Sleep(time.Minute)
		if served, _ := r.Proto(); served != nil {
			t.Errorf("before the first call the recorder has %v, want nothing: perhaps nothing is ever counted", served)
		}
		r.Record(load.Succeeded, time.Millisecond)
		time.Sleep(time.Second)
		served, internet := r.Proto()
		if served.GetCalls() != 1 || served.GetMeasured().AsDuration() != load.Window || internet {
			t.Errorf("after a call the recorder has %v, from the internet %t; want 1 call measured for 10 s",
				served, internet)
		}
		r.ServeInternet()
		if _, internet := r.Proto(); !internet {
			t.Error("after ServeInternet the calls do not come from the internet")
		}
	})
}

func BenchmarkMeterRecord(b *testing.B) {
	var m load.Meter
	now := time.Duration(0)
	for b.Loop() {
		now += 10 * time.Microsecond
		m.Record(now, load.Succeeded, now%time.Second)
	}
}

func BenchmarkMeterLoad(b *testing.B) {
	var m load.Meter
	for i, d := range latencies(4, 1000) {
		m.Record(time.Duration(i)*10*time.Millisecond, load.Succeeded, d)
	}
	for b.Loop() {
		m.Load(10 * time.Second)
	}
}
