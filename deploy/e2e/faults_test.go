package e2e

import (
	"bufio"
	"cmp"
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
	"testing"
	"time"
)

var (
	faultsFile = flag.String("faults", "", "tell all faults and write their table to this file; empty: only the short ones are told")
	faultAfter = flag.Duration("window", time.Minute, "how long after a fault a request that fails counts against it, with -faults")
	faultSeed  = flag.Uint64("seed", 1, "seed of the arrivals of TestFaults")
)

// fault is a row of the table: something that breaks while people are served. A row is a value in one of the slices of
// [faults], in whatever file it belongs.
//
// Most rows say how to hurt and heal a platform; the driver does the rest: load, windows, figures, and whether everything
// is as before in the end. A row with tell does all of that itself.
type fault struct {
	row  string // of the scorecard in the issue, such as "5, 35"
	name string // what is broken
	on   where  // which platform it is told over
	// short rows are told by `go test` too, with less time around the fault.
	short bool

	seconds int      // from hurt to heal
	must    float64  // share of the requests in the window that must have a good answer
	after   float64  // and of those that begin when the platform has had its time to recover; 0: all of them
	victims []string // instances that may be restarted, and whose memory and files are not looked at
	inject  func(t testing.TB, p platform)
	heal    func(t testing.TB, p platform)
	// storm, if set, is a service whose callers are to ask it at most 1.2 times for each call, from hurt to heal.
	storm string
	// beside, if set, starts something beside the load before anything is broken. What it returns is called when
	// everything is as before, and gives what it has to say and what it missed.
	beside func(t testing.TB, p platform) (end func() (note string, missed []string))

	// tell breaks what it wants and returns what came of it; p is nil for rows that need no platform (noPlatform).
	// It leaves the platform as it found it. What it reports to t fails the row.
	run func(t *testing.T, p platform, seed uint64) figures
}

// where says over what a row is told.
type where string

const (
	noPlatform  where = ""                               // the row starts what it needs
	processesOf where = "as processes"                   // compose.yaml
	threeStores where = "as processes over three stores" // compose.yaml and compose.ha.yaml
	oneProcess  where = "in one process"                 // with faults of connections: see [netInjector]
)

// figures are what a line of the table says. Nothing of it is required: what is zero is left out.
type figures struct {
	offered, failed       int
	before, during, after time.Duration // p99
	recovery              time.Duration // from healing to the last request that failed
	calls, retries        float64       // between all processes
	missed                []string      // what had to be kept and was not: the row is red
	note                  string        // what else there is to say, such as an aim that was not reached, and why
}

// faults are all rows. Those of one platform are told in this order, except that what loses requests by design comes later
// and what tells itself comes last.
var faults = slices.Concat(
	staticFaults,
	standaloneFaults,
	trafficFaults,
	edgeFaults,
)

// pace is how much time there is around a fault.
type timing struct {
	calm   time.Duration // before it, with nothing broken
	settle time.Duration // after it healed, for the platform to recover before it is expected to be as before
	window time.Duration // after it healed, in which requests that fail count against it
}

// shortTiming is for go test; make faults takes a minute.
var shortTiming = timing{2 * time.Second, 5 * time.Second, 10 * time.Second}

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
func (o *offer) runFor(t testing.TB, d time.Duration) {
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

func windowOf(all []sample, from, to time.Duration) window {
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

// stats are what an instance says of itself.
type stats struct {
	goroutines, files, memory, started float64

	made map[string]attempts // by callee; the edge's own are under ""
}

// attempts are calls, and how many of them were tried once more.
type attempts struct{ calls, retries float64 }

func (a attempts) ratio() float64 { return (a.calls + a.retries) / max(1, a.calls) }

// noKeepAliveClient keeps no connection: where all instances share a process, one that is kept counts among the files of all.
var noKeepAliveClient = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// readStats reads the metrics of every instance that answers, one after the other, but for those not to be asked.
func readStats(ctx context.Context, p platform, except ...string) map[string]stats {
	all := map[string]stats{}
	for _, m := range stackMembers {
		if slices.Contains(except, m.instance()) {
			continue
		}
		a, err := getBy(ctx, noKeepAliveClient, "http://"+p.addr(m.instance(), 9090)+"/metrics")
		if err == nil && a.status == http.StatusOK {
			all[m.instance()] = parseStats(a.body)
		}
	}
	return all
}

func parseStats(metrics string) stats {
	v := stats{made: map[string]attempts{}}
	for s := bufio.NewScanner(strings.NewReader(metrics)); s.Scan(); {
		name, n, ok := sampleOf(s.Text())
		if !ok {
			continue
		}
		base, labels, _ := strings.Cut(name, "{")
		_, callee, _ := strings.Cut(labels, `callee="`)
		if _, method, ok := strings.Cut(labels, `method="bijou.`); ok { // bijou.cinema.catalog.v1.Catalog/Shelves
			callee, _, _ = strings.Cut(strings.TrimPrefix(method, "cinema."), ".")
		}
		callee, _, _ = strings.Cut(callee, `"`)
		made := v.made[callee]
		switch base {
		case "go_goroutines":
			v.goroutines = n
		case "process_open_fds":
			v.files = n
		case "process_resident_memory_bytes":
			v.memory = n
		case "process_start_time_seconds":
			v.started = n
		case "bijou_rpc_client_retries_total", "bijou_gateway_retries_total":
			made.retries += n
		case "bijou_rpc_client_seconds_count", "bijou_gateway_requests_total":
			made.calls += n
		default:
			continue
		}
		v.made[callee] = made
	}
	return v
}

// sampleOf splits a line of metrics: name and labels, value.
func sampleOf(line string) (name string, n float64, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 || strings.HasPrefix(line, "#") {
		return "", 0, false
	}
	n, err := strconv.ParseFloat(line[i+1:], 64)
	return line[:i], n, err == nil
}

// leaks compares every instance with how it was: nobody but the victims was restarted, and nothing is held on to.
func leaks(before, now map[string]stats, victims []string) error {
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

// tally adds up what all instances have sent to each callee since before. A victim that is new counts from zero.
func sumAttempts(before, now map[string]stats) map[string]attempts {
	sum := map[string]attempts{}
	for name, n := range now {
		b := before[name]
		for callee, a := range n.made {
			was := b.made[callee]
			if n.started != b.started || a.calls < was.calls {
				was = attempts{}
			}
			s := sum[callee]
			sum[callee] = attempts{s.calls + a.calls - was.calls, s.retries + a.retries - was.retries}
		}
	}
	return sum
}

// turn is a row of which the platform has been hurt and healed.
type faultRun struct {
	fault
	begun, broken, healed time.Duration // since the load began
	over                  time.Duration // when the next one may begin; its window may last longer
	attempts                            // from hurt until over, to everybody
	during                attempts      // from hurt to heal, to the service of a storm
	note                  string
	missed                []string
}

// take hurts and heals a platform under load, and waits until everything is as before.
func (o *offer) runFault(t *testing.T, p platform, f fault, at timing) faultRun {
	waitForHome(t, p)
	x := faultRun{fault: f, begun: time.Since(o.begun)}
	end := func() (string, []string) { return "", nil }
	if f.beside != nil {
		end = f.beside(t, p)
	}
	o.runFor(t, at.calm)
	before := readStats(t.Context(), p)
	x.broken = time.Since(o.begun)
	defer func() {
		if x.healed == 0 { // hurting it failed half-way
			f.heal(t, p)
		}
	}()
	f.inject(t, p)
	o.runFor(t, time.Duration(f.seconds)*time.Second)
	if f.storm != "" {
		x.during = sumAttempts(before, readStats(t.Context(), p, f.victims...))[f.storm]
	}
	f.heal(t, p)
	x.healed = time.Since(o.begun)
	o.runFor(t, at.settle+5*time.Second)
	for _, a := range sumAttempts(before, readStats(t.Context(), p)) {
		x.calls, x.retries = x.calls+a.calls, x.retries+a.retries
	}
	x.over = time.Since(o.begun)
	client.CloseIdleConnections() // the load's own, of which it needed more than before
	eventually(t, time.Minute, "everybody to be as before", func(ctx context.Context) error {
		return leaks(before, readStats(ctx, p), f.victims)
	})
	x.note, x.missed = end()
	if t.Failed() {
		x.missed = append(x.missed, "see the log")
	}
	return x
}

// judge looks at what became of the requests in the window of a turn. Windows of turns that lose nothing overlap: what
// fails counts against every turn in whose window it was due.
func (x faultRun) judge(t testing.TB, all []sample, at timing) figures {
	was, in := windowOf(all, x.begun, x.broken), windowOf(all, x.broken, x.healed)
	back, whole := windowOf(all, x.healed+at.settle, x.over), windowOf(all, x.broken, x.healed+at.window)
	if x.must < .99 { // nothing else is broken in its window, so nobody may fail in the rest of it
		back = windowOf(all, x.healed+at.settle, x.healed+at.window)
	}
	f := figures{
		offered: whole.offered, failed: whole.failed, before: was.p99, during: in.p99, after: back.p99,
		recovery: max(0, whole.last-x.healed), calls: x.calls, retries: x.retries, missed: x.missed, note: x.note,
	}
	for why, n := range whole.why {
		t.Logf("%s: %d x %s", x.name, n, why)
	}
	if was.failed > 0 {
		f.missed = append(f.missed, fmt.Sprintf("the machine is too busy to run: %d of %d failed before anything was broken", was.failed, was.offered))
	}
	if whole.share() < x.must {
		f.missed = append(f.missed, fmt.Sprintf("%.2f %% served, must be %.2f %%", 100*whole.share(), 100*x.must))
	}
	if must := cmp.Or(x.after, 1); back.share() < must {
		f.missed = append(f.missed, fmt.Sprintf("%d of %d failed %v after it healed", back.failed, back.offered, at.settle))
	}
	if r := x.attempts.ratio(); r > 1.2 {
		f.missed = append(f.missed, fmt.Sprintf("%.2f attempts for each call", r))
	}
	if x.storm != "" {
		r := x.during.ratio()
		f.note = fmt.Sprintf("%.3f attempts for each of %.0f calls of %s; ", r, x.during.calls, x.storm) + f.note
		if r > 1.2 || x.during.calls == 0 {
			f.missed = append(f.missed, "attempts for each call must be at most 1.2")
		}
	}
	if whole.offered == 0 || back.offered == 0 {
		f.missed = append(f.missed, "nothing was offered")
	}
	return f
}

// unfinished is what is known of a row that ended early. The log says why.
var unfinished = figures{missed: []string{"it could not be told to the end"}}

// runFaults tells rows over one platform and calls line with each line of the table.
func runFaults(t *testing.T, p platform, rows []fault, at timing, line func(string)) {
	var quiet, costly, own []fault
	for _, f := range rows {
		switch {
		case f.run != nil:
			own = append(own, f)
		case f.must < .99:
			costly = append(costly, f)
		default:
			quiet = append(quiet, f)
		}
	}
	if len(quiet)+len(costly) > 0 {
		url := waitForHome(t, p)
		o := startOffer(t, *faultSeed, p.rate(), url, edge(p)+"/browse", edge(p)+"/")
		var turns []faultRun
		for _, f := range slices.Concat(quiet, costly) {
			begun, done, skipped := false, false, false
			t.Run(f.name, func(t *testing.T) {
				begun = true
				defer func() { skipped = t.Skipped() }()
				if f.must < .99 { // what it costs is not to count against others
					for _, before := range turns {
						o.runFor(t, before.healed+at.window-time.Since(o.begun))
					}
				}
				turns = append(turns, o.runFault(t, p, f, at))
				done = true
			})
			if begun && !done {
				line(f.line(figures{missed: []string{map[bool]string{true: "this machine cannot do it", false: unfinished.missed[0]}[skipped]}}))
			}
		}
		for _, turn := range turns {
			o.runFor(t, turn.healed+at.window-time.Since(o.begun))
		}
		all := o.end()
		for _, turn := range turns {
			line(turn.verdict(t, turn.judge(t, all, at)))
		}
	}
	for _, f := range own {
		t.Run(f.name, func(t *testing.T) {
			result := unfinished
			defer func() { line(f.verdict(t, result)) }()
			result = f.run(t, p, *faultSeed)
		})
	}
}

// verdict fails the test if the row is red, and returns its line.
func (f fault) verdict(t testing.TB, r figures) string {
	if f.run != nil && t.Failed() && len(r.missed) == 0 {
		r.missed = []string{"see the log"}
	}
	if len(r.missed) > 0 {
		t.Errorf("%s: %s", f.name, strings.Join(r.missed, "; "))
	}
	line := f.line(r)
	t.Log(line)
	return line
}

func (f fault) line(r figures) string {
	times := ""
	if r.before+r.during+r.after > 0 {
		times = fmt.Sprintf("%v / %v / %v", r.before.Round(time.Millisecond), r.during.Round(time.Millisecond), r.after.Round(time.Millisecond))
	}
	offered, recovery, retries := " | ", "", ""
	if r.offered > 0 {
		offered, recovery = fmt.Sprintf("%d | %d", r.offered, r.failed), r.recovery.Round(100*time.Millisecond).String()
	}
	if r.calls > 0 {
		retries = fmt.Sprintf("%.3f", r.retries/r.calls)
	}
	verdict := "kept"
	if len(r.missed) > 0 {
		verdict = "**missed**: " + strings.Join(r.missed, "; ")
	}
	if r.note != "" {
		verdict += ": " + r.note
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |", f.row, f.name, offered, times, recovery, retries, verdict)
}

// rowsOf returns the rows that are told over one platform.
func rowsOf(on where, short bool) (rows []fault) {
	for _, f := range faults {
		if f.on == on && (f.short || !short) {
			rows = append(rows, f)
		}
	}
	return rows
}

// runShortFaults tells the short rows of a platform after its stories.
func runShortFaults(t *testing.T, p platform, on where) {
	t.Run("Fault", func(t *testing.T) { runFaults(t, p, rowsOf(on, true), shortTiming, func(string) {}) })
}

// TestFaults breaks one thing after the other. With -faults it tells every row and writes the table, which takes forty
// minutes and wants a quiet machine; without, it tells the short rows that need no platform.
func TestFaults(t *testing.T) {
	t.Logf("seed %d", *faultSeed)
	if *faultsFile == "" {
		runFaults(t, nil, rowsOf(noPlatform, true), shortTiming, func(string) {})
		return
	}
	at := timing{calm: 5 * time.Second, settle: 15 * time.Second, window: *faultAfter}
	var b strings.Builder
	fmt.Fprintf(&b, `# What happens when things break

Written by `+"`make faults`"+` on %s: %s, %d CPUs, %s/%s, seed %d.

Open-loop load through the edge, arrivals drawn from the seed; a good answer is 200 within %v of the moment it was due. Offered and
failed are from the fault until %v after it healed; where such windows overlap, a request that failed counts against each. p99 is
before the fault, during it, and from %v after it healed. Recovery is from healing to the last request that failed. Retries are
those between all processes, for each of their requests. After each fault goroutines, open files and memory of every instance went back to what they were,
and nobody but the victims was restarted. Rows are those of the scorecard; the text of a verdict says what is
special about a row. "missed" is red; a figure that is only aimed at and not reached stands in the text, with the reason.
`, time.Now().Format(time.DateOnly), machine(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, *faultSeed, within, at.window, at.settle)
	for _, r := range []struct {
		on    where
		start func(t testing.TB) platform
	}{
		{processesOf, func(t testing.TB) platform { return startProxied(t) }},
		{threeStores, func(t testing.TB) platform { return startThreeStores(t) }},
		{oneProcess, func(t testing.TB) platform { return startInProcess(t, nil) }},
		{noPlatform, func(testing.TB) platform { return nil }},
	} {
		rows := rowsOf(r.on, false)
		if len(rows) == 0 {
			continue
		}
		title := cmp.Or(string(r.on), "with what they need alone")
		t.Run(title, func(t *testing.T) {
			fmt.Fprintf(&b, `
## %s%s

| Row | What was broken | Offered | Failed | p99 before / during / after | Recovery | Retries per request | Verdict |
|---|---|---|---|---|---|---|---|
`, strings.ToUpper(title[:1]), title[1:])
			runFaults(t, r.start(t), rows, at, func(line string) { fmt.Fprintln(&b, line) })
		})
		if err := os.WriteFile(*faultsFile, []byte(b.String()), 0o644); err != nil { // what was told is not lost with the rest
			t.Fatal(err)
		}
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
