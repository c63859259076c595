package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"
)

// report collects the lines of one section.
type report struct {
	rounds int
	lines  []line
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
	if len(v) == 0 {
		return math.NaN()
	}
	return v[len(v)/2]
}

// String shows the median and the range: "19.2 us [18.8 to 20.1]".
func (f figure) String() string {
	if len(f.values) < 2 {
		return short(f.median()) + " " + f.unit
	}
	return fmt.Sprintf("%s %s [%s to %s]", short(f.median()), f.unit, short(slices.Min(f.values)), short(slices.Max(f.values)))
}

func short(v float64) string {
	switch {
	case v == math.Trunc(v) && math.Abs(v) < 1e6:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

func (r *report) add(name string, figures ...figure) {
	r.lines = append(r.lines, line{name, figures})
}

// print writes the lines, with the ratio of each first figure to that of the first line: the floor.
func (r *report) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 2, 4, 2, ' ', 0)
	defer w.Flush()
	for i, l := range r.lines {
		fmt.Fprintf(w, "  %s", l.name)
		for _, f := range l.figures {
			fmt.Fprintf(w, "\t%s", f)
		}
		if first := r.lines[0]; i > 0 && len(first.figures) > 0 && len(l.figures) > 0 && first.figures[0].unit == l.figures[0].unit {
			fmt.Fprintf(w, "\tx%s", short(l.figures[0].median()/first.figures[0].median()))
		}
		fmt.Fprintln(w)
	}
	r.warn(out)
}

// warn says when the floor itself moved so much that the comparison means little.
func (r *report) warn(out io.Writer) {
	if len(r.lines) == 0 || len(r.lines[0].figures) == 0 {
		return
	}
	f := r.lines[0].figures[0]
	if lo, hi := slices.Min(f.values), slices.Max(f.values); len(f.values) > 2 && hi > lo*1.15 {
		fmt.Fprintf(out, "  (the floor varied by %.0f %%: the machine was busy)\n", 100*(hi/lo-1))
	}
}

// contender is one side of a comparison.
type contender struct {
	name string
	fn   func(b *testing.B)
}

// compare runs contenders in turns, forwards then backwards, and adds a line for each: CPU time of this process and
// wall time for one operation, and allocations.
func (r *report) compare(contenders ...contender) {
	type sample struct{ cpu, wall, allocs []float64 }
	samples := make([]sample, len(contenders))
	order := make([]int, len(contenders))
	for i := range order {
		order[i] = i
	}
	for range r.rounds {
		for _, i := range order {
			var cpu time.Duration
			result := testing.Benchmark(func(b *testing.B) {
				b.ReportAllocs()
				before := cpuTime()
				contenders[i].fn(b)
				cpu = cpuTime() - before
			})
			n := float64(result.N)
			samples[i].cpu = append(samples[i].cpu, float64(cpu.Nanoseconds())/n)
			samples[i].wall = append(samples[i].wall, float64(result.T.Nanoseconds())/n)
			samples[i].allocs = append(samples[i].allocs, float64(result.AllocsPerOp()))
		}
		slices.Reverse(order)
	}
	for i, c := range contenders {
		r.add(c.name, figure{"ns CPU", samples[i].cpu}, figure{"ns wall", samples[i].wall}, figure{"allocs", samples[i].allocs})
	}
}

// cpuTime returns the user and system time of this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// quantile returns the q-quantile of durations in milliseconds.
func quantile(d []time.Duration, q float64) float64 {
	s := slices.Sorted(slices.Values(d))
	if len(s) == 0 {
		return math.NaN()
	}
	return float64(s[min(len(s)-1, int(q*float64(len(s))))].Microseconds()) / 1000
}
