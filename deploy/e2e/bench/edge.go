package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"bijou.dev/deploy/e2e/peers"
	"bijou.dev/platform/pace"
)

// edgeOptions are the flags of the command edge.
type edgeOptions struct {
	rounds      int
	each        time.Duration
	connections int
	dir         string // of the proxies that `make peers` installs
	loadCore    string
	proxyCore   string
	file        string // the document that gets the table; empty: it is printed
}

// startEdge measures the edge and other proxies, and writes one table.
func startEdge(ctx context.Context, args []string, out, problems io.Writer) error {
	f := flag.NewFlagSet("bench edge", flag.ContinueOnError)
	f.SetOutput(problems)
	o := edgeOptions{}
	f.IntVar(&o.rounds, "rounds", 9, "rounds of each comparison; the median is printed")
	f.DurationVar(&o.each, "time", 2*time.Second, "how long one proxy has load in one round")
	f.IntVar(&o.connections, "connections", 2000, "idle connections, to measure memory")
	f.StringVar(&o.dir, "peers", filepath.Join(".bijou", "peers"), "the `folder` to which make peers installs")
	f.StringVar(&o.loadCore, "load-core", "0", "the `CPU` of load and origin")
	f.StringVar(&o.proxyCore, "proxy-core", "1", "the `CPU` of the proxies")
	f.StringVar(&o.file, "write", "", "replace the table in this `file`; empty: print it")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return errors.New("the arguments are wrong, see above")
	case f.NArg() > 0:
		return fmt.Errorf("unknown argument %q of edge", f.Arg(0))
	case o.rounds < 1 || o.each <= 0 || o.connections < 1:
		return errors.New("-rounds, -time and -connections must be above zero")
	}
	if _, err := exec.LookPath("taskset"); err != nil {
		return fmt.Errorf("pinning processes to a CPU: %w; it is in the package util-linux of a Linux with two CPUs", err)
	}
	document := []byte(edgeTitle)
	if o.file != "" {
		var err error
		if document, err = os.ReadFile(o.file); err != nil {
			return err
		}
	}
	if _, err := replaceSection(document, ""); err != nil { // before it takes 20 minutes
		return fmt.Errorf("looking for the table in %s: %w", o.file, err)
	}
	table, err := o.measure(ctx, out)
	if ctx.Err() != nil {
		return errors.New("measuring: interrupted")
	}
	if err != nil {
		return err
	}
	if o.file == "" {
		fmt.Fprint(out, "\n", table)
		return nil
	}
	if document, err = replaceSection(document, table); err != nil {
		return err
	}
	return os.WriteFile(o.file, document, 0o644)
}

// edgeTitle is the heading of the section with the table.
const edgeTitle = "## CPU of the proxy per request\n"

// replaceSection replaces the text below edgeTitle, up to the next heading of two #.
func replaceSection(document []byte, text string) ([]byte, error) {
	before, rest, found := bytes.Cut(document, []byte(edgeTitle))
	if !found {
		return nil, fmt.Errorf("it has no line %q", strings.TrimSpace(edgeTitle))
	}
	after := []byte{}
	if next := bytes.Index(rest, []byte("\n## ")); next >= 0 {
		after = rest[next:]
	}
	return slices.Concat(before, []byte(edgeTitle+"\n"+text), after), nil
}

// edgeKinds are the kinds of requests, and the columns of the table with their CPU time.
var edgeKinds = []struct{ load, title string }{
	{"small", fmt.Sprintf("HTTP/1.1, %d bytes", len(small.body))},
	{"large", "HTTP/1.1, 100 KiB"},
	{"calls", "gRPC, unary"},
}

// idleKinds are the kinds of idle connections, and the columns of the table with their memory.
var idleKinds = []struct{ open, title string }{
	{"WebSocket", "an idle WebSocket"},
	{"HTTP/1.1", "an idle HTTP/1.1 connection"},
}

// candidate is a line of the table. missing is why it cannot be measured.
type candidate struct {
	name    string
	start   func(ctx context.Context) (*running, error)
	missing string
}

// running is a candidate that was started.
type running struct {
	http, grpc string
	pid        int
	stop       func()
}

// site is what all candidates have behind them.
type site struct{ http, grpc, spans string }

// candidates returns the lines of the table. The first is that which all others are compared with.
func (o edgeOptions) candidates(ctx context.Context, behind site) (all []candidate, err error) {
	for _, name := range peers.Names {
		version, err := peers.Version(ctx, name, o.dir)
		if errors.Is(err, fs.ErrNotExist) {
			all = append(all, candidate{name: name, missing: "not installed (make peers)"})
			continue
		}
		if err != nil {
			return nil, err
		}
		add := func(name, title, spans string) {
			all = append(all, candidate{name: title, start: func(ctx context.Context) (*running, error) {
				p, err := peers.Start(ctx, name, peers.Options{
					Dir: o.dir, Origins: []string{behind.http}, GRPCOrigin: behind.grpc, Core: o.proxyCore,
					Connections: 3 * o.connections, Spans: spans, // one to the client, one to the origin, some more
				})
				if err != nil {
					return nil, err
				}
				return &running{p.HTTP, p.GRPC, p.PID, p.Stop}, nil
			}})
		}
		add(name, name+" "+version, "")
		if name == "Traefik" || name == "Caddy" {
			add(name, name+" "+version+", log, metrics, traces", behind.spans)
		}
	}
	for _, own := range []struct{ name, share, log string }{
		{"edge, no log, nothing traced", "0", "off"}, {"edge as shipped", "1", "all"},
	} {
		all = append(all, candidate{name: own.name, start: func(ctx context.Context) (*running, error) {
			p, err := spawnOn(ctx, o.proxyCore, "gateway", behind.http, behind.spans, own.share, own.log, behind.grpc)
			if err != nil {
				return nil, err
			}
			return &running{p.addr, p.addr, p.cmd.Process.Pid, p.kill}, nil
		}})
	}
	return all, nil
}

// measure measures everything and returns the text of the section.
func (o edgeOptions) measure(ctx context.Context, out io.Writer) (string, error) {
	origin, err := spawnOn(ctx, o.loadCore, "site")
	if err != nil {
		return "", err
	}
	defer origin.kill()
	spans, err := spawnOn(ctx, o.loadCore, "decoder")
	if err != nil {
		return "", err
	}
	defer spans.kill()
	behind := site{spans: spans.addr}
	behind.http, behind.grpc, _ = strings.Cut(origin.addr, " ")
	all, err := o.candidates(ctx, behind)
	if err != nil {
		return "", err
	}
	var present []candidate
	for _, c := range all {
		if c.missing == "" {
			present = append(present, c)
		}
	}
	cpu, err := o.measureCPU(ctx, out, present)
	if err != nil {
		return "", err
	}
	memory, err := o.measureMemory(ctx, out, present)
	if err != nil {
		return "", err
	}
	return o.table(all, cpu, memory), nil
}

// measured is name of a candidate -> kind -> value of each round.
type measured map[string]map[string][]float64

func (m measured) add(name, kind string, value float64) {
	if m[name] == nil {
		m[name] = map[string][]float64{}
	}
	m[name][kind] = append(m[name][kind], value)
}

// measureCPU measures microseconds of CPU for each request. All candidates run, one at a time has load.
func (o edgeOptions) measureCPU(ctx context.Context, out io.Writer, all []candidate) (measured, error) {
	started := make([]*running, len(all))
	for i, c := range all {
		p, err := c.start(ctx)
		if err != nil {
			return nil, err
		}
		defer p.stop()
		started[i] = p
	}
	m := measured{}
	for _, kind := range edgeKinds {
		fmt.Fprintf(out, "measuring CPU time: %s\n", kind.title)
		for i := range all { // warm up
			if _, err := o.request(ctx, kind.load, all[i].name, started[i], o.each); err != nil {
				return nil, err
			}
		}
		err := turns(ctx, o.rounds, len(all), func(i int) error {
			micros, err := o.request(ctx, kind.load, all[i].name, started[i], o.each)
			m.add(all[i].name, kind.load, micros)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// request sends requests of a kind to a candidate, and returns its CPU time for one in microseconds.
func (o edgeOptions) request(ctx context.Context, kind, name string, p *running, d time.Duration) (float64, error) {
	addr := p.http
	if kind == "calls" {
		addr = p.grpc
	}
	before, err := cpuOf(p.pid)
	if err != nil {
		return 0, err
	}
	load, err := spawnOn(ctx, o.loadCore, "load", kind, addr, d.String())
	if err != nil {
		return 0, fmt.Errorf("sending requests to %s: %w", name, err)
	}
	defer load.kill()
	n, err := strconv.Atoi(load.addr)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("sending requests to %s: the number of responses is %q, want one above 0", name, load.addr)
	}
	after, err := cpuOf(p.pid)
	return float64((after - before).Nanoseconds()) / 1000 / float64(n), err
}

// memoryRounds is the most rounds in which memory is measured. It varies less than CPU time.
const memoryRounds = 3

// measureMemory measures KiB of resident memory for each idle connection. Each time a candidate is started anew: a
// process does not return all memory.
func (o edgeOptions) measureMemory(ctx context.Context, out io.Writer, all []candidate) (measured, error) {
	m := measured{}
	for _, kind := range idleKinds {
		fmt.Fprintf(out, "measuring memory: %s\n", kind.title)
		err := turns(ctx, min(o.rounds, memoryRounds), len(all), func(i int) error {
			kib, err := o.idle(ctx, kind.open, all[i])
			if err != nil {
				return fmt.Errorf("opening idle connections to %s: %w", all[i].name, err)
			}
			m.add(all[i].name, kind.open, kib)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// idle starts a candidate, and returns the KiB of memory that it uses for an idle connection. Some connections are
// opened before memory is measured for the first time: the edge gives memory back when many connections are idle, and
// what it needed for the requests before must not count for the connections.
func (o edgeOptions) idle(ctx context.Context, kind string, c candidate) (float64, error) {
	const before, settle = 300, 15 * time.Second // longer than a proxy waits until it gives memory back
	p, err := c.start(ctx)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	if _, err := o.request(ctx, "small", c.name, p, time.Second); err != nil { // memory that it needs once
		return 0, err
	}
	var resident [2]int64
	var opened [2]*process
	for i, n := range []int{before, o.connections} {
		open, err := spawnOn(ctx, o.loadCore, "idle", kind, p.http, strconv.Itoa(n))
		if err != nil {
			return 0, err
		}
		defer open.kill()
		opened[i] = open
		if !pace.Sleep(ctx, settle) {
			return 0, ctx.Err()
		}
		if resident[i], err = residentOf(p.pid); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(opened[0].stop(), opened[1].stop()); err != nil { // it is an error if one was closed
		return 0, err
	}
	return float64(resident[1]-resident[0]) / 1024 / float64(o.connections), nil
}

// table returns the text of the section.
func (o edgeOptions) table(all []candidate, cpu, memory measured) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Written by `make bench-edge`: %s %s/%s, %d CPUs, %s; %d rounds of %v.\n", runtime.Version(),
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format("2006-01-02 15:04"), o.rounds, o.each)
	fmt.Fprintf(&b, "Microseconds of CPU for a request and KiB of memory for a connection: median [lowest to highest] of the\n"+
		"rounds, and the median of their ratios to %s.\n\n| Proxy |", all[0].name)
	for _, k := range edgeKinds {
		fmt.Fprintf(&b, " %s |", k.title)
	}
	for _, k := range idleKinds {
		fmt.Fprintf(&b, " %s |", k.title)
	}
	fmt.Fprint(&b, "\n|", strings.Repeat("---|", 1+len(edgeKinds)+len(idleKinds)), "\n")
	for _, c := range all {
		fmt.Fprintf(&b, "| %s |", c.name)
		if c.missing != "" {
			fmt.Fprintf(&b, " %s |%s\n", c.missing, strings.Repeat(" |", len(edgeKinds)+len(idleKinds)-1))
			continue
		}
		for _, k := range edgeKinds {
			fmt.Fprintf(&b, " %s |", cell("us", cpu[c.name][k.load], cpu[all[0].name][k.load]))
		}
		for _, k := range idleKinds {
			fmt.Fprintf(&b, " %s |", cell("KiB", memory[c.name][k.open], memory[all[0].name][k.open]))
		}
		fmt.Fprintln(&b)
	}
	for _, k := range edgeKinds {
		floor := cpu[all[0].name][k.load]
		if len(floor) > 0 && slices.Max(floor) > slices.Min(floor)*steady {
			fmt.Fprintf(&b, "\nUNSTEADY: %s: %s varied by %.0f %% between rounds; run again on a quiet machine before quoting "+
				"this column.\n", k.title, all[0].name, 100*(slices.Max(floor)/slices.Min(floor)-1))
		}
	}
	return b.String()
}

// cell shows a figure and its ratio to the floor, which is empty if it was not measured.
func cell(unit string, values, floor []float64) string {
	text := figure{unit, values}.String()
	var ratios []float64
	for i := range floor {
		if floor[i] > 0 {
			ratios = append(ratios, values[i]/floor[i])
		}
	}
	if len(ratios) == 0 {
		return text
	}
	return text + " x" + short(figure{values: ratios}.median())
}

// processesOf returns a process and all processes below it.
func processesOf(pid int) ([]int, error) {
	all := []int{pid}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	for _, file := range threads {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) { // the thread has ended
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, child := range strings.Fields(string(b)) {
			n, err := strconv.Atoi(child)
			if err != nil {
				return nil, err
			}
			below, err := processesOf(n)
			if err != nil {
				return nil, err
			}
			all = append(all, below...)
		}
	}
	return all, nil
}

// cpuOf returns the CPU time of a process and those below it, as the scheduler of the kernel counts it: not rounded to
// ticks.
func cpuOf(pid int) (time.Duration, error) {
	all, err := processesOf(pid)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, p := range all {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p))
		if err != nil {
			return 0, err
		}
		if len(threads) == 0 {
			return 0, fmt.Errorf("reading the CPU time of process %d: it has ended, or the kernel has no schedstat", p)
		}
		for _, file := range threads {
			b, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) { // the thread has ended
				continue
			}
			var nanos int64
			if err == nil {
				_, err = fmt.Sscan(string(b), &nanos)
			}
			if err != nil {
				return 0, fmt.Errorf("reading %s: %w", file, err)
			}
			sum += time.Duration(nanos)
		}
	}
	return sum, nil
}

// residentOf returns the resident memory of a process and those below it, in bytes.
func residentOf(pid int) (int64, error) {
	all, err := processesOf(pid)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, p := range all {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p))
		if err != nil {
			return 0, err
		}
		var size, resident int64
		if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
			return 0, fmt.Errorf("reading the memory of process %d: %w", p, err)
		}
		sum += resident * int64(os.Getpagesize())
	}
	return sum, nil
}
