package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"bijou.dev/platform/pace"
)

// report collects the lines of one section.
type report struct {
	rounds  int
	each    time.Duration // how long one contender runs in one round
	compose string        // the compose file
	out     io.Writer
	lines   []line
}

// line is one row: a name and its figures.
type line struct {
	name    string
	figures []figure
}

// figure is a measured quantity, one value a round.
type figure struct {
	unit   string
	values []float64
}

func (f figure) median() float64 {
	v := slices.Sorted(slices.Values(f.values))
	switch n := len(v); {
	case n == 0:
		return math.NaN()
	case n%2 == 0:
		return (v[n/2-1] + v[n/2]) / 2
	default:
		return v[n/2]
	}
}

// String shows the median and the range: "19.2 us [18.8 to 20.1]".
func (f figure) String() string {
	lo, hi := slices.Min(f.values), slices.Max(f.values)
	if short(lo) == short(hi) {
		return short(f.median()) + " " + f.unit
	}
	return fmt.Sprintf("%s %s [%s to %s]", short(f.median()), f.unit, short(lo), short(hi))
}

// short formats v with three significant digits.
func short(v float64) string {
	if v == math.Trunc(v) || math.Abs(v) >= 100 {
		return strconv.FormatInt(int64(math.Round(v)), 10)
	}
	return fmt.Sprintf("%.3g", v)
}

func (r *report) add(name string, figures ...figure) {
	r.lines = append(r.lines, line{name, figures})
}

// print writes the lines. After a figure comes its ratio to the figure in the same column of the first line, the floor,
// if both have the same unit.
func (r *report) print() {
	w := tabwriter.NewWriter(r.out, 2, 4, 2, ' ', 0)
	for i, l := range r.lines {
		fmt.Fprintf(w, "  %s", l.name)
		for k, f := range l.figures {
			fmt.Fprintf(w, "\t%s", f)
			if i > 0 {
				fmt.Fprintf(w, "%s", r.ratio(k, f))
			}
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
	r.warn()
}

func (r *report) ratio(k int, f figure) string {
	floor := r.lines[0].figures
	if k >= len(floor) || floor[k].unit == seconds || floor[k].unit != f.unit || floor[k].median() == 0 {
		return ""
	}
	return " x" + short(f.median()/floor[k].median())
}

// seconds is the unit of times since a start. No ratio is printed for them.
const seconds = "s"

// steady is how much a floor may vary between rounds. If it varies more, the section is marked as UNSTEADY.
const steady = 1.15

// warn prints a warning if the floor varied too much between rounds.
func (r *report) warn() {
	if len(r.lines) < 2 {
		return
	}
	f := r.lines[0].figures[0]
	if f.unit == seconds {
		return
	}
	if lo, hi := slices.Min(f.values), slices.Max(f.values); hi > lo*steady {
		fmt.Fprintf(r.out, "  UNSTEADY: the floor varied by %.0f %% between rounds; run again on a quiet machine "+
			"before quoting this section\n", 100*(hi/lo-1))
	}
}

// turns calls fn for each of n contenders in every round, forwards then backwards, so that drift affects all equally.
func turns(ctx context.Context, rounds, n int, fn func(i int) error) error {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	for range rounds {
		for _, i := range order {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(i); err != nil {
				return err
			}
		}
		slices.Reverse(order)
	}
	return nil
}

// contender is one side of a comparison. An error of fn ends it.
type contender struct {
	name string
	fn   func(b *testing.B) error
}

// slicesPerRound is how often contenders take turns within a round. Shorter turns have less drift between them.
const slicesPerRound = 8

// compare runs contenders in turns and adds a line for each: CPU time of this process, wall time and allocations of one
// operation, and what that adds to the first contender, taken round by round.
func (r *report) compare(ctx context.Context, contenders ...contender) error {
	sums := make([][]sample, len(contenders)) // by round
	turn := make([]int, len(contenders))
	err := turns(ctx, r.rounds*slicesPerRound, len(contenders), func(i int) error {
		s, err := measure(contenders[i].fn)
		if err != nil {
			return fmt.Errorf("%s: %w", contenders[i].name, err)
		}
		if turn[i]%slicesPerRound == 0 {
			sums[i] = append(sums[i], sample{})
		}
		turn[i]++
		sums[i][len(sums[i])-1].add(s)
		return nil
	})
	if err != nil {
		return err
	}
	scale, unit := 1.0, "ns"
	if sums[0][0].cpu/sums[0][0].n > 10_000 {
		scale, unit = 1000, "us"
	}
	for i, c := range contenders {
		var cpu, wall, allocs, moreCPU, moreAllocs []float64
		for k, s := range sums[i] {
			floor := sums[0][k]
			cpu, wall, allocs = append(cpu, s.cpu/s.n/scale), append(wall, s.wall/s.n/scale), append(allocs,
				math.Round(s.allocs/s.n))
			moreCPU, moreAllocs = append(moreCPU, (s.cpu/s.n-floor.cpu/floor.n)/scale), append(moreAllocs,
				math.Round(s.allocs/s.n-floor.allocs/floor.n))
		}
		figures := []figure{{unit + " CPU", cpu}, {unit + " wall", wall}, {"allocs", allocs}}
		if i > 0 {
			figures = append(figures, figure{unit + " CPU added", moreCPU}, figure{"allocs added", moreAllocs})
		}
		r.add(c.name, figures...)
	}
	return nil
}

// sample is the cost of n operations: nanoseconds of CPU and of wall time, and allocations.
type sample struct{ n, cpu, wall, allocs float64 }

func (s *sample) add(o sample) {
	s.n, s.cpu, s.wall, s.allocs = s.n+o.n, s.cpu+o.cpu, s.wall+o.wall, s.allocs+o.allocs
}

// measure runs fn for the duration of the flag test.benchtime.
func measure(fn func(b *testing.B) error) (sample, error) {
	var used time.Duration
	var failure error
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		before := cpuTime()
		failure = fn(b)
		used = cpuTime() - before
	})
	return sample{float64(result.N), float64(used), float64(result.T), float64(result.MemAllocs)}, failure
}

// cpuTime returns the user and system time of this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// millis returns the q-quantile of durations in milliseconds.
func millis(d []time.Duration, q float64) float64 {
	s := slices.Sorted(slices.Values(d))
	if len(s) == 0 {
		return math.NaN()
	}
	return float64(s[min(len(s)-1, int(q*float64(len(s))))].Microseconds()) / 1000
}

// latencies collects durations round by round.
type latencies struct {
	all    []time.Duration
	median []float64 // of each round, in milliseconds
}

func (l *latencies) add(round []time.Duration) {
	l.all = append(l.all, round...)
	l.median = append(l.median, millis(round, 0.5))
}

// figures are the median of each round, and the 99th percentile and maximum of all rounds together.
func (l *latencies) figures() []figure {
	return []figure{
		{"ms p50", l.median},
		{"ms p99", []float64{millis(l.all, 0.99)}},
		{"ms max", []float64{millis(l.all, 1)}},
	}
}

// paced runs op n times, one after the other, each due a period after the one before. A duration is from the time when
// op was due to the end that op returns, so it includes the delay by a slow op before. The time that op takes after
// that end is added to the time when the next op is due.
func paced(ctx context.Context, n int, period time.Duration, op func() (time.Time, error)) ([]time.Duration, error) {
	took := make([]time.Duration, 0, n)
	due := time.Now().Add(period)
	for range n {
		start := due
		if wait := time.Until(due); wait > 0 {
			if !pace.Sleep(ctx, wait) {
				return nil, ctx.Err()
			}
			start = time.Now() // a timer that fires late must not count
		}
		end, err := op()
		if err != nil {
			return nil, err
		}
		took = append(took, end.Sub(start))
		due = due.Add(period + time.Since(end))
	}
	return took, nil
}

// until calls op every period until it succeeds, for at most patience.
func until(ctx context.Context, period time.Duration, what string, op func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := op(ctx)
		if err == nil {
			return nil
		}
		if !pace.Sleep(ctx, period) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
	}
}

// patience is the timeout of operations that should be quick.
const patience = 30 * time.Second
