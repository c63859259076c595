// Bench measures the platform and prints one table. Each figure has beside it a floor or an alternative that was
// measured in the same run, in turns: the speed of a machine drifts, so that only ratios can be compared.
//
//	go run ./deploy/e2e/bench            everything
//	go run ./deploy/e2e/bench -run rpc   sections whose name contains "rpc"
//	go run ./deploy/e2e/bench edge       the edge beside other proxies, as a table for docs/benchmarks.md
//
// What must not share CPU time with the program that measures it runs as a child process of this same program.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == childArg {
		os.Exit(child(os.Args[2], os.Args[3:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := start(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// child is the main function of a child process: it runs its role until its input ends.
func child(role string, args []string) int {
	run, ok := roles[role]
	if !ok {
		fmt.Fprintf(os.Stderr, "bench: unknown role %q of a child\n", role)
		return 2
	}
	signal.Ignore(os.Interrupt) // a terminal sends it to children, too; the parent ends them
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, args, func(addr string) { fmt.Fprintln(os.Stdout, addr) }) }()
	input := make(chan struct{})
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			fmt.Fprintln(os.Stdout, cpuTime().Nanoseconds())
		}
		close(input)
	}()
	select {
	case <-input: // it has ended
		cancel()
	case err := <-ended:
		ended <- err
	}
	select {
	case err := <-ended:
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", role, err)
			return 1
		}
	case <-time.After(patience): // etcd ends only by a signal
	}
	return 0
}

// start parses the arguments and runs the benchmarks, or those of the edge beside other proxies.
func start(ctx context.Context, args []string, out, problems io.Writer) error {
	if len(args) > 0 && args[0] == "edge" {
		return startEdge(ctx, args[1:], out, problems)
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(problems)
	only := f.String("run", "", "only sections whose `name` contains this")
	rounds := f.Int("rounds", 5, "rounds of each comparison; the median is printed")
	each := f.Duration("time", 400*time.Millisecond, "how long one contender runs in one round")
	compose := f.String("file", "compose.yaml", "the compose `file` of section stack")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return errors.New("the arguments are wrong, see above")
	case f.NArg() > 0:
		return fmt.Errorf("unknown argument %q; -run takes the name of a section", f.Arg(0))
	case *rounds < 1 || *each <= 0:
		return errors.New("-rounds and -time must be above zero")
	}
	if !slices.ContainsFunc(sections, func(s section) bool { return strings.Contains(s.name, *only) }) {
		return fmt.Errorf("no section has %q in its name", *only)
	}
	if strings.Contains("stack", *only) {
		if _, err := os.Stat(*compose); err != nil {
			return fmt.Errorf("%w; run this at the top of the repository, or give the path with -file", err)
		}
	}
	testing.Init() // registers the flag set below on flag.CommandLine
	if err := flag.Set("test.benchtime", (*each / slicesPerRound).String()); err != nil {
		return err
	}
	return bench(ctx, *only, report{rounds: *rounds, compose: *compose, each: *each, out: out})
}

// section is one part of the report. aim has the targets for its figures.
type section struct {
	name, about, aim string
	measure          func(ctx context.Context, r *report) error
}

var sections = []section{
	{"settings", "reading a setting, beside an atomic load", "at most 5 ns and no allocation", benchSettings},
	{
		"rpc", "one gRPC call with the client stack, beside bare grpc-go with the same deadline; both ends in this " +
			"process",
		"at most 300 ns and 1 allocation added", benchCalls,
	},
	{
		"tracing", "what tracing adds to a gRPC call, both sides together",
		"at most 2 us added unsampled, 6 us sampled",
		benchTracing,
	},
	{
		"publish", "a setting, from the call until the last of 100 sets uses it, beside a put and 100 watches of etcd",
		"p99 below 10 ms, acknowledged by all", benchPublish,
	},
	{
		"register",
		"an instance, from its start until the last of 100 callers sees it, beside a put and 100 watches of etcd",
		"p99 below 10 ms", benchRegister,
	},
	{
		"gateway", "one small HTTP/1.1 request: CPU time of the proxy only, 32 connections kept alive",
		"at most 30 us a request", benchGateway,
	},
	{
		"ingest", "spans over OTLP/gRPC in batches of 512: CPU time of the receiver, beside one that decodes only",
		"at most 10 us a span durable, 60 bytes on disk, a trace by its id in 10 ms", benchIngest,
	},
	{
		"stack", "compose.yaml as processes, built before",
		"first page in 5 s, all healthy in 20 s, below 500 MB idle and 1 GiB under load", benchStack,
	},
}

func bench(ctx context.Context, only string, settings report) error {
	out := settings.out
	fmt.Fprintf(out, "%s %s/%s, %d CPUs, %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(),
		time.Now().UTC().Format("2006-01-02 15:04"))
	fmt.Fprintf(out, "Median of %d rounds in turns [lowest to highest] and the ratio to the section's first line.\n",
		settings.rounds)
	fmt.Fprintln(out, "The speed of a machine drifts: compare lines of one run, not runs.")
	for _, s := range sections {
		if !strings.Contains(s.name, only) {
			continue
		}
		r := settings
		fmt.Fprintf(out, "\n%s: %s\n  aim: %s\n", s.name, s.about, s.aim)
		err := s.measure(ctx, &r)
		if ctx.Err() != nil {
			return fmt.Errorf("measuring %s: interrupted", s.name)
		}
		if err != nil {
			return fmt.Errorf("measuring %s: %w", s.name, err)
		}
		r.print()
	}
	return nil
}
