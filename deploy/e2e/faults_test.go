package e2e

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
)

var (
	faultsFile = flag.String("faults", "", "tell all faults and write their table to this file; empty: TestFaults is skipped")
	faultSeed  = flag.Uint64("seed", 1, "seed of the arrivals of TestFaults")
)

// sufferer is a platform whose instances can be hurt in more ways than death. Not every runner can do everything.
type sufferer interface {
	pause(t testing.TB, instance string)
	resume(t testing.TB, instance string)
}

// wired is a platform that can hurt connections.
type wired interface {
	slow(t testing.TB, instance string, d time.Duration)
	resume(t testing.TB, instance string)
	reset(t testing.TB, instance string)
}

// fault is something that breaks while people are served.
type fault struct {
	row     string // of the scorecard
	name    string // what is broken
	seconds int    // for how long
	must    float64
	after   float64 // of the requests that begin when the system has had its time to recover
	victims []string
	hurt    func(t testing.TB, p platform)
	heal    func(t testing.TB, p platform)
	able    func(p platform) bool // nil: every runner is
}

// settle is the time that a platform has to recover before it is expected to be as before.
const settle = 15 * time.Second

func each(fn func(t testing.TB, instance string), instances ...string) func(testing.TB) {
	return func(t testing.TB) {
		for _, i := range instances {
			fn(t, i)
		}
	}
}

func held(row, name string, seconds int, must float64, victims ...string) fault {
	return fault{
		row: row, name: name, seconds: seconds, must: must, after: 1, victims: victims,
		hurt: func(t testing.TB, p platform) { each(p.hold, victims...)(t) },
		heal: func(t testing.TB, p platform) { each(p.start, victims...)(t) },
	}
}

var catalogs = []string{"catalog-a-1", "catalog-a-2", "catalog-b-1"}

// controlPlane is everything that is not asked on a request's path.
var controlPlane = []string{"etcd-1", "config-1", "config-2", "discovery-1", "discovery-2", "circuits-1", "tracing-1"}

var faults = []fault{
	held("1", "one of three catalogs killed", 6, .999, "catalog-a-1"),
	{
		row: "2", name: "one of three catalogs paused", seconds: 8, must: .995, after: 1, victims: []string{"catalog-a-1"},
		hurt: func(t testing.TB, p platform) { p.(sufferer).pause(t, "catalog-a-1") },
		heal: func(t testing.TB, p platform) { p.(sufferer).resume(t, "catalog-a-1") },
		able: func(p platform) bool { _, ok := p.(sufferer); return ok },
	},
	{
		row: "3", name: "every replicated service restarted, one instance after the other", must: 1, after: 1,
		victims: []string{"catalog-a-1", "catalog-a-2", "catalog-b-1", "recommendations-a-1", "recommendations-b-1", "config-1", "config-2", "discovery-1", "discovery-2"},
		hurt: func(t testing.TB, p platform) {
			each(p.restart, "catalog-a-1", "recommendations-a-1", "config-1", "discovery-1", "catalog-a-2", "recommendations-b-1", "config-2", "discovery-2", "catalog-b-1")(t)
		},
		heal: func(testing.TB, platform) {},
	},
	{
		row: "5, 35", name: "the control plane and etcd dead; a catalog restarted meanwhile", seconds: 8, must: 1, after: 1,
		victims: append([]string{"catalog-a-2"}, controlPlane...),
		hurt: func(t testing.TB, p platform) {
			each(p.hold, controlPlane...)(t)
			p.kill(t, "catalog-a-2") // starts from what it kept on disk
		},
		heal: func(t testing.TB, p platform) { each(p.start, controlPlane...)(t) },
	},
	{
		row: "6", name: "the registry back empty, etcd dead", seconds: 8, must: 1, after: 1,
		victims: []string{"etcd-1", "discovery-1", "discovery-2"},
		hurt: func(t testing.TB, p platform) {
			each(p.hold, "etcd-1", "discovery-1", "discovery-2")(t)
			each(p.start, "discovery-1", "discovery-2")(t)
		},
		heal: func(t testing.TB, p platform) { p.start(t, "etcd-1") },
	},
	{
		row: "18", name: "all catalogs 1 s slower", seconds: 8, must: 0, after: 1, victims: catalogs,
		hurt: func(t testing.TB, p platform) {
			each(func(t testing.TB, i string) { p.(wired).slow(t, i, time.Second) }, catalogs...)(t)
		},
		heal: func(t testing.TB, p platform) { each(p.(wired).resume, catalogs...)(t) },
		able: func(p platform) bool { _, ok := p.(wired); return ok },
	},
	{
		row: "17", name: "all connections of catalogs reset", seconds: 4, must: .995, after: 1, victims: catalogs,
		hurt: func(t testing.TB, p platform) { each(p.(wired).reset, catalogs...)(t) },
		heal: func(testing.TB, platform) {},
		able: func(p platform) bool { _, ok := p.(wired); return ok },
	},
	held("20", "all catalogs dead", 8, 0, catalogs...),
	held("34", "tracing dead", 6, 1, "tracing-1"),
	{
		row: "34", name: "tracing paused", seconds: 8, must: 1, after: 1, victims: []string{"tracing-1"},
		hurt: func(t testing.TB, p platform) { p.(sufferer).pause(t, "tracing-1") },
		heal: func(t testing.TB, p platform) { p.(sufferer).resume(t, "tracing-1") },
		able: func(p platform) bool { _, ok := p.(sufferer); return ok },
	},
}

// sample is one request that was offered.
type sample struct {
	at   time.Duration // since the load began
	took time.Duration
	why  string // empty: a good answer within the deadline
}

// offer is seeded open-loop load through the edge: the same seed makes the same arrivals.
type offer struct {
	begun time.Time
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu      sync.Mutex
	samples []sample
}

func startOffer(t testing.TB, seed uint64, rate int, urls ...string) *offer {
	ctx, cancel := context.WithCancel(t.Context())
	o := &offer{begun: time.Now(), stop: cancel}
	rng := rand.New(rand.NewPCG(seed, 0))
	o.wg.Go(func() {
		for due := time.Duration(0); ; {
			due += time.Duration(rng.ExpFloat64() / float64(rate) * float64(time.Second))
			url := urls[rng.IntN(len(urls))]
			select {
			case <-time.After(time.Until(o.begun.Add(due))): // no later for what came before: a stall counts
				o.wg.Go(func() { o.one(url, due) })
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); o.wg.Wait() })
	return o
}

func (o *offer) one(url string, due time.Duration) {
	ctx, cancel := context.WithDeadline(context.Background(), o.begun.Add(due+within))
	defer cancel()
	a, err := get(ctx, url)
	s := sample{at: due, took: time.Since(o.begun) - due}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		s.why = "late"
	case err != nil:
		s.why = err.Error()
	case a.status != http.StatusOK:
		s.why = fmt.Sprintf("%d %s", a.status, a.header.Get("X-Bijou-Fault"))
	}
	o.mu.Lock()
	o.samples = append(o.samples, s)
	o.mu.Unlock()
}

// pass lets the load go on for a while. It is the clock of these stories: what is waited for is requests that become due.
func (o *offer) pass(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

func (o *offer) end() []sample {
	o.stop()
	o.wg.Wait()
	slices.SortFunc(o.samples, func(a, b sample) int { return int(a.at - b.at) })
	return o.samples
}

// window is what became of the requests that were due in a span of time.
type window struct {
	offered, failed int
	p99             time.Duration
	last            time.Duration // when the last one that failed was due
	why             map[string]int
}

func look(all []sample, from, to time.Duration) window {
	w := window{why: map[string]int{}}
	var times []time.Duration
	for _, s := range all {
		if s.at < from || s.at >= to {
			continue
		}
		w.offered++
		times = append(times, s.took)
		if s.why != "" {
			w.failed++
			w.last = s.at
			w.why[s.why]++
		}
	}
	if slices.Sort(times); len(times) > 0 {
		w.p99 = times[len(times)*99/100]
	}
	return w
}

func (w window) share() float64 {
	if w.offered == 0 {
		return 0
	}
	return 1 - float64(w.failed)/float64(w.offered)
}

// vitals are what an instance says of itself.
type vitals struct{ goroutines, files, memory, retries, calls, started float64 }

// readVitals reads the metrics of every instance that answers.
func readVitals(ctx context.Context, p platform) map[string]vitals {
	all := map[string]vitals{}
	for _, m := range cast {
		a, err := get(ctx, "http://"+p.addr(m.instance(), 9090)+"/metrics")
		if err != nil || a.status != http.StatusOK {
			continue
		}
		var v vitals
		for s := bufio.NewScanner(strings.NewReader(a.body)); s.Scan(); {
			name, value, ok := strings.Cut(s.Text(), " ")
			n, err := strconv.ParseFloat(value[strings.LastIndexByte(value, ' ')+1:], 64)
			if !ok || err != nil {
				continue
			}
			switch base, _, _ := strings.Cut(name, "{"); base {
			case "go_goroutines":
				v.goroutines = n
			case "process_open_fds":
				v.files = n
			case "process_resident_memory_bytes":
				v.memory = n
			case "process_start_time_seconds":
				v.started = n
			case "bijou_rpc_client_retries_total", "bijou_gateway_retries_total":
				v.retries += n
			case "bijou_rpc_client_seconds_count", "bijou_gateway_requests_total":
				v.calls += n
			}
		}
		all[m.instance()] = v
	}
	return all
}

// leaks compares every instance with how it was: nobody but the victims was restarted, and nothing is held on to.
func leaks(before, now map[string]vitals, victims []string) error {
	for name, b := range before {
		n, ok := now[name]
		switch {
		case !ok:
			return fmt.Errorf("%s does not answer", name)
		case slices.Contains(victims, name):
		case n.started != b.started:
			return fmt.Errorf("%s was restarted", name)
		case n.goroutines > 1.05*b.goroutines+30:
			return fmt.Errorf("%s has %.0f goroutines, had %.0f", name, n.goroutines, b.goroutines)
		case n.files > 1.05*b.files+20:
			return fmt.Errorf("%s has %.0f files open, had %.0f", name, n.files, b.files)
		case n.memory > 1.5*b.memory+64<<20:
			return fmt.Errorf("%s takes %.0f MiB, took %.0f", name, n.memory/(1<<20), b.memory/(1<<20))
		}
	}
	return nil
}

// tally adds up calls and retries of all instances since before. A victim that is new counts from zero.
func tally(before, now map[string]vitals) (calls, retries float64) {
	for name, n := range now {
		b := before[name]
		if n.started != b.started || n.calls < b.calls {
			b = vitals{}
		}
		calls += n.calls - b.calls
		retries += n.retries - b.retries
	}
	return calls, retries
}

// tellFault tells one fault and returns its line of the table.
func tellFault(t *testing.T, p platform, f fault, seed uint64) string {
	url := wholeHome(t, p)
	o := startOffer(t, seed, p.rate(), url, edge(p)+"/browse", edge(p)+"/")
	o.pass(t, 5*time.Second)
	before := readVitals(t.Context(), p)
	broken := time.Since(o.begun)
	f.hurt(t, p)
	o.pass(t, time.Duration(f.seconds)*time.Second)
	f.heal(t, p)
	healed := time.Since(o.begun)
	o.pass(t, settle+5*time.Second)
	calls, retries := tally(before, readVitals(t.Context(), p))
	all := o.end()
	over := time.Since(o.begun)
	was, in, back := look(all, 0, broken), look(all, broken, healed), look(all, healed+settle, over)
	whole := look(all, broken, over)
	recovery := max(0, whole.last-healed)

	var bad []string
	if was.failed > 0 {
		bad = append(bad, fmt.Sprintf("the machine is too busy to tell: %d of %d failed before anything was broken", was.failed, was.offered))
	}
	if whole.share() < f.must {
		bad = append(bad, fmt.Sprintf("%.2f %% served, must be %.2f %%", 100*whole.share(), 100*f.must))
	}
	if back.share() < f.after {
		bad = append(bad, fmt.Sprintf("%d of %d failed %v after it healed", back.failed, back.offered, settle))
	}
	// A budget of a fifth and ten a second for each caller and callee, of which few have so many calls.
	if retries > .2*calls+10*(over-broken).Seconds() {
		bad = append(bad, fmt.Sprintf("%.0f retries of %.0f calls", retries, calls))
	}
	eventually(t, 60*time.Second, "everybody to be as before", func(ctx context.Context) error {
		return leaks(before, readVitals(ctx, p), f.victims)
	})
	for why, n := range whole.why {
		t.Logf("%d x %s", n, why)
	}
	verdict := "kept"
	if whole.offered == 0 || back.offered == 0 {
		bad = append(bad, "nothing was offered")
	}
	if len(bad) > 0 {
		verdict = "**missed**: " + strings.Join(bad, "; ")
		t.Errorf("%s: %s", f.name, strings.Join(bad, "; "))
	}
	line := fmt.Sprintf("| %s | %s | %d | %d | %v / %v / %v | %v | %.3f | %s |", f.row, f.name, whole.offered, whole.failed,
		was.p99.Round(time.Millisecond), in.p99.Round(time.Millisecond), back.p99.Round(time.Millisecond),
		recovery.Round(100*time.Millisecond), retries/max(1, calls), verdict)
	t.Log(line)
	return line
}

// TestFaults breaks one thing after the other and writes what came of it. It takes minutes and a quiet machine.
func TestFaults(t *testing.T) {
	if *faultsFile == "" {
		t.Skip("it takes minutes: make faults")
	}
	t.Logf("seed %d", *faultSeed)
	var b strings.Builder
	fmt.Fprintf(&b, `# What happens when things break

Written by `+"`make faults`"+` on %s: %s, %d CPUs, %s/%s, seed %d. Open-loop load through the edge, arrivals drawn from the seed; a good
answer is 200 within %v of the moment it was due. Offered and failed are from the fault to the end, %v after it healed. p99 is before
the fault, during it, and from %v after it healed. Recovery is from healing to the last request that failed. Retries are those of all
processes, for each of their calls. After each fault goroutines, open files and memory of every instance went back to what they
were, and nobody but the victims was restarted. Rows are those of the scorecard.
`, time.Now().Format(time.DateOnly), machine(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, *faultSeed, within, settle+5*time.Second, settle)
	for _, r := range []struct {
		name  string
		start func(t testing.TB) platform
	}{
		{"Processes", func(t testing.TB) platform { return startProcesses(t, stack.Options{}) }},
		{"InProcess", func(t testing.TB) platform { return startInProcess(t, nil) }},
	} {
		t.Run(r.name, func(t *testing.T) {
			p := r.start(t)
			fmt.Fprintf(&b, "\n## %s\n\n| Row | What was broken | Offered | Failed | p99 before / during / after | Recovery | Retries a call | Verdict |\n|---|---|---|---|---|---|---|---|\n",
				map[string]string{"Processes": "As processes", "InProcess": "In one process, with slow and broken connections"}[r.name])
			for _, f := range faults {
				if f.able != nil && !f.able(p) || r.name == "InProcess" && f.able == nil {
					continue // in one process only what processes cannot do
				}
				t.Run(f.name, func(t *testing.T) { fmt.Fprintln(&b, tellFault(t, p, f, *faultSeed)) })
			}
			if _, ok := p.(wired); ok {
				t.Run("three times the load", func(t *testing.T) { fmt.Fprintln(&b, tellOverload(t, p, *faultSeed)) })
			}
		})
	}
	if err := os.WriteFile(*faultsFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// machine names the processor.
func machine() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return "unknown processor"
}

func (p processes) signal(t testing.TB, instance string, sig syscall.Signal) {
	t.Helper()
	for _, i := range p.Instances() {
		if i.Name == instance && i.PID > 0 {
			if err := syscall.Kill(i.PID, sig); err != nil {
				t.Fatalf("signalling %s: %v", instance, err)
			}
			return
		}
	}
	t.Fatalf("there is no live %s", instance)
}

func (p processes) pause(t testing.TB, instance string)  { p.signal(t, instance, syscall.SIGSTOP) }
func (p processes) resume(t testing.TB, instance string) { p.signal(t, instance, syscall.SIGCONT) }
