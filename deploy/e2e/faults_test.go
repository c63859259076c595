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

	"bijou.dev/platform/pace"
)

var (
	faultsFile = flag.String("faults", "",
		"run all faults and write their table to this file; empty: run only the short ones")
	faultAfter = flag.Duration("window", time.Minute,
		"how long after a fault a request that fails counts against it, with -faults")
	faultSeed = flag.Uint64("seed", 1, "seed of the arrivals of TestFaults")
)

// fault is a row of the table: something that breaks while the platform serves requests. A row is a value in one of the
// slices of [faults].
//
// Most rows have inject and heal, and the driver does the rest: load, windows, figures, and whether every instance uses
// as little as before in the end. A row with run does all of that itself.
type fault struct {
	row  string // numbers of the scorecard, such as "5, 35"
	name string // what is broken
	on   where  // the platform that it needs
	// short rows are also run by a plain `go test`, with shorter periods before and after the fault.
	short bool

	seconds int      // from inject to heal
	must    float64  // share of the requests in the window that must succeed
	after   float64  // and of those sent after the time to recover; 0: all of them
	victims []string // instances that may be restarted and use more resources afterwards
	inject  func(t testing.TB, p platform)
	heal    func(t testing.TB, p platform)
	// storm, if set, is a service whose callers may make at most 1.2 attempts for each call, from inject to heal.
	storm string
	// beside, if set, starts something beside the load before the fault. end is called after the recovery. It returns a
	// note for the verdict and the requirements that were not met.
	beside func(t testing.TB, p platform) (end func() (note string, missed []string))

	// run injects and heals the fault by itself and returns the figures. p is nil for rows with noPlatform. It undoes
	// its changes to the platform. An error reported to t fails the row.
	run func(t *testing.T, p platform, seed uint64) figures
}

// where is the platform that a row needs.
type where string

const (
	noPlatform  where = ""                               // the row starts what it needs
	processesOf where = "as processes"                   // compose.yaml
	threeStores where = "as processes over three stores" // compose.yaml and compose.ha.yaml
	oneProcess  where = "in one process"                 // with faults of connections: see [netInjector]
)

// figures are the columns of a line of the table. Those that are zero are left empty.
type figures struct {
	offered, failed       int
	before, during, after time.Duration // p99
	recovery              time.Duration // from healing to the last request that failed
	calls, retries        float64       // between all instances
	missed                []string      // requirements that were not met; not empty: the row fails
	note                  string        // further text, such as an aim that was not reached, and why
}

// faults are all rows. Those of one platform run in this order, except that rows in which requests may fail come later,
// and rows with run come last.
var faults = slices.Concat(
	staticFaults,
	standaloneFaults,
	trafficFaults,
	edgeFaults,
	shareFaults,
)

// timing has the periods before and after a fault.
type timing struct {
	calm   time.Duration // before the fault
	settle time.Duration // after heal, for the platform to recover
	window time.Duration // after heal, in which failed requests count against the fault
}

// shortTiming is for go test. With -faults the window is a minute.
var shortTiming = timing{2 * time.Second, 5 * time.Second, 10 * time.Second}

// sample is one request of the load.
type sample struct {
	at   time.Duration // since the load began
	took time.Duration
	why  string // empty: status 200 in time
}

// offer is open-loop load through the edge, at random times. The same seed gives the same times.
type offer struct {
	begun  time.Time
	within time.Duration
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	samples []sample
}

// startOffer starts load at a rate, or a lower one if the platform cannot serve it now.
func startOffer(t testing.TB, seed uint64, rate int, urls ...string) *offer {
	t.Helper()
	return startOfferOf(t, seed, measure(t, rate, urls...), urls...)
}

func startOfferOf(t testing.TB, seed uint64, m measured, urls ...string) *offer {
	ctx, cancel := context.WithCancel(t.Context())
	o := &offer{begun: time.Now(), within: m.within, stop: cancel}
	rng := rand.New(rand.NewPCG(seed, 0))
	o.wg.Go(func() {
		for due := time.Duration(0); ; {
			due += time.Duration(rng.ExpFloat64() / float64(m.rate) * float64(time.Second))
			url := urls[rng.IntN(len(urls))]
			select {
			case <-time.After(time.Until(o.begun.Add(due))):
				// independent of earlier responses, so a stall counts against all requests that it delays
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
	ctx, cancel := context.WithDeadline(context.Background(), o.begun.Add(due+o.within))
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

// runFor waits for d while the load goes on.
func (o *offer) runFor(t testing.TB, d time.Duration) {
	t.Helper()
	if !pace.Sleep(t.Context(), d) {
		t.Fatal(t.Context().Err())
	}
}

func (o *offer) end() []sample {
	o.stop()
	o.wg.Wait()
	slices.SortFunc(o.samples, func(a, b sample) int { return int(a.at - b.at) })
	return o.samples
}

// window has the results of the requests that were due in a period.
type window struct {
	offered, failed int
	p99             time.Duration
	last            time.Duration // when the last failed request was due
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

// stats are metrics of an instance.
type stats struct {
	goroutines, files, memory, started float64

	made map[string]attempts // callee -> attempts; those of the edge are under ""
}

// attempts are the numbers of calls and of retries.
type attempts struct{ calls, retries float64 }

func (a attempts) ratio() float64 { return (a.calls + a.retries) / max(1, a.calls) }

// noKeepAliveClient closes its connections. Where all instances share this process, an open connection would count
// among the open files of each.
var noKeepAliveClient = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// readStats reads the metrics of every instance that answers, except some.
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

// sampleOf splits a line of metrics into name with labels, and value.
func sampleOf(line string) (name string, n float64, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 || strings.HasPrefix(line, "#") {
		return "", 0, false
	}
	n, err := strconv.ParseFloat(line[i+1:], 64)
	return line[:i], n, err == nil
}

// leaks returns an error if an instance other than the victims was restarted, or if it uses more than before.
func leaks(before, after map[string]stats, victims []string) error {
	for name, b := range before {
		n, ok := after[name]
		switch {
		case !ok:
			return fmt.Errorf("%s does not answer", name)
		case slices.Contains(victims, name):
		case n.started != b.started:
			return fmt.Errorf("%s was restarted", name)
		case n.goroutines > 1.05*b.goroutines+30:
			return fmt.Errorf("%s has %.0f goroutines, before the fault it had %.0f", name, n.goroutines, b.goroutines)
		case n.files > 1.05*b.files+20:
			return fmt.Errorf("%s has %.0f open files, before the fault it had %.0f", name, n.files, b.files)
		case n.memory > 1.5*b.memory+64<<20:
			return fmt.Errorf("%s uses %.0f MiB, before the fault it used %.0f", name, n.memory/(1<<20),
				b.memory/(1<<20))
		}
	}
	return nil
}

// sumAttempts returns the calls and retries of all instances since before, by callee. A restarted instance counts from
// zero.
func sumAttempts(before, after map[string]stats) map[string]attempts {
	sum := map[string]attempts{}
	for name, n := range after {
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

// faultRun is a row whose fault was injected and healed.
type faultRun struct {
	fault
	begun, broken, healed time.Duration // since the load began
	over                  time.Duration // when the next fault may begin; the window of this one may last longer
	attempts                            // from inject until over, to all callees
	during                attempts      // from inject to heal, to the service of a storm
	note                  string
	missed                []string
}

// runFault injects and heals a fault under load, and waits until every instance uses as little as before.
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
		if x.healed == 0 { // inject failed
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
	client.CloseIdleConnections() // the load opened more of them during the fault
	eventually(t, time.Minute, "every instance to use as little as before", func(ctx context.Context) error {
		return leaks(before, readStats(ctx, p), f.victims)
	})
	x.note, x.missed = end()
	if t.Failed() {
		x.missed = append(x.missed, "see the log")
	}
	return x
}

// judge compares the requests in the window of a fault with its requirements. Windows of faults in which no request may
// fail overlap: a failed request counts against every fault in whose window it was due.
func (x faultRun) judge(t testing.TB, all []sample, at timing) figures {
	was, in := windowOf(all, x.begun, x.broken), windowOf(all, x.broken, x.healed)
	back, whole := windowOf(all, x.healed+at.settle, x.over), windowOf(all, x.broken, x.healed+at.window)
	if x.must < .99 { // its window overlaps with no other, so no request may fail in the rest of it
		back = windowOf(all, x.healed+at.settle, x.healed+at.window)
	}
	f := figures{
		offered: whole.offered, failed: whole.failed, before: was.p99, during: in.p99, after: back.p99,
		recovery: max(0, whole.last-x.healed), calls: x.calls, retries: x.retries, missed: x.missed, note: x.note,
	}
	for why, n := range whole.why {
		t.Logf("%s: %d requests failed: %s", x.name, n, why)
	}
	if was.failed > 0 {
		f.missed = append(f.missed, fmt.Sprintf("the machine is too busy: %d of %d requests failed before the fault",
			was.failed, was.offered))
	}
	if whole.share() < x.must {
		f.missed = append(f.missed, fmt.Sprintf("%.2f %% of the requests succeeded, must be %.2f %%", 100*whole.share(),
			100*x.must))
	}
	if must := cmp.Or(x.after, 1); back.share() < must {
		f.missed = append(f.missed, fmt.Sprintf("%d of %d requests failed later than %v after it healed", back.failed,
			back.offered, at.settle))
	}
	if r := x.attempts.ratio(); r > 1.2 {
		f.missed = append(f.missed, fmt.Sprintf("%.2f attempts for each call, must be at most 1.2", r))
	}
	if x.storm != "" {
		r := x.during.ratio()
		f.note = fmt.Sprintf("%.3f attempts for each of %.0f calls of %s; ", r, x.during.calls, x.storm) + f.note
		if r > 1.2 || x.during.calls == 0 {
			f.missed = append(f.missed,
				fmt.Sprintf("attempts for each call of %s: %.2f of %.0f calls, must be at most 1.2 of at least one",
					x.storm, r, x.during.calls))
		}
	}
	if whole.offered == 0 || back.offered == 0 {
		f.missed = append(f.missed, "no request was offered")
	}
	return f
}

// unfinished are the figures of a row that ended early. The reason is in the log.
var unfinished = figures{missed: []string{"it ended early, see the log"}}

// runFaults runs rows over one platform and calls line with each line of the table.
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
				if f.must < .99 { // its failed requests must not count against other faults
					for _, before := range turns {
						o.runFor(t, before.healed+at.window-time.Since(o.begun))
					}
				}
				turns = append(turns, o.runFault(t, p, f, at))
				done = true
			})
			if begun && !done {
				line(f.line(figures{missed: []string{map[bool]string{
					true:  "this machine cannot do it",
					false: unfinished.missed[0],
				}[skipped]}}))
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

// verdict fails the test if a requirement was not met, and returns the line of the table.
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
		times = fmt.Sprintf("%v / %v / %v", r.before.Round(time.Millisecond), r.during.Round(time.Millisecond),
			r.after.Round(time.Millisecond))
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
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |", f.row, f.name, offered, times, recovery, retries,
		verdict)
}

// rowsOf returns the rows that need one platform.
func rowsOf(on where, short bool) (rows []fault) {
	for _, f := range faults {
		if f.on == on && (f.short || !short) {
			rows = append(rows, f)
		}
	}
	return rows
}

// runShortFaults runs the short rows of a platform.
func runShortFaults(t *testing.T, p platform, on where) {
	t.Run("Fault", func(t *testing.T) { runFaults(t, p, rowsOf(on, true), shortTiming, func(string) {}) })
}

// TestFaults injects one fault after the other. With -faults it runs every row and writes the table, which takes
// forty-five minutes and needs a quiet machine and the proxies that `make peers` installs. Without, it runs the short
// rows that need no platform.
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

Open-loop load through the edge, at random times drawn from the seed; a request succeeds with status 200 within %v
of the time at which it was due. Offered and failed are from the fault until %v after it healed; where such windows
overlap, a failed request counts against each. p99 is before the fault, during it, and from %v after it healed.
Recovery is from healing to the last failed request. Retries are those between all processes, for each of their
requests. After each fault goroutines, open files and memory of every instance were as before, and only victims were
restarted. Rows are those of the scorecard; the text of a verdict has further figures of the row. "missed" fails the
row; an aim that was not reached is in the text, with the reason.

Rows 41 to 43 have two instances that work on %d requests at once each. They have the same figures of other proxies:
the same load and the same instances, one proxy after the other, each with the limits and protections that it has by
default. HAProxy, nginx, Traefik and Caddy have no limit of requests and no circuit breaker by default; nginx has 768
connections for each of its workers (Debian's package); Envoy has 1,024 connections, pending requests and requests. Their
configurations are in deploy/e2e/peers/config.
`, time.Now().Format(time.DateOnly), machine(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, *faultSeed,
		within, at.window, at.settle, workers)
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
		title := cmp.Or(string(r.on), "without a platform")
		t.Run(title, func(t *testing.T) {
			fmt.Fprintf(&b, `
## %s%s

| Row | What was broken | Offered | Failed | p99 before / during / after | Recovery | Retries per request | Verdict |
|---|---|---|---|---|---|---|---|
`, strings.ToUpper(title[:1]), title[1:])
			runFaults(t, r.start(t), rows, at, func(line string) { fmt.Fprintln(&b, line) })
		})
		// rows that are done are not lost when a later one panics
		if err := os.WriteFile(*faultsFile, []byte(b.String()), 0o644); err != nil {
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
