// Bench measures the platform and prints one table: each figure stands beside a floor or an alternative that was
// measured in the same run, in turns, because the machine's speed drifts and only ratios hold.
//
//	go run ./deploy/e2e/bench            everything
//	go run ./deploy/e2e/bench -run rpc   sections whose name contains "rpc"
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := flag.String("run", "", "only sections whose name contains this")
	rounds := flag.Int("rounds", 5, "rounds of each comparison; the median is printed")
	flag.Parse()
	if err := bench(ctx, os.Stdout, *run, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// section is one part of the report.
type section struct {
	name, about string
	measure     func(ctx context.Context, r *report) error
}

var sections = []section{
	{"settings", "reading a setting, beside an atomic load", benchSettings},
	{"rpc", "one gRPC call with the whole client stack, beside bare grpc-go, both ends in this process", benchCalls},
	{"tracing", "what tracing adds to a gRPC call, both sides together", benchTracing},
	{"publish", "publishing a setting until the last of 100 processes has it", benchPublish},
	{"register", "registering an instance until the last of 100 callers has it", benchRegister},
	{"gateway", "one HTTP/1.1 request through the gateway, beside httputil.ReverseProxy and no proxy", benchGateway},
	{"ingest", "storing spans durably, beside decoding them only", benchIngest},
	{"stack", "the whole stack as processes: time to the first page, memory", benchStack},
}

func bench(ctx context.Context, out io.Writer, only string, rounds int) error {
	fmt.Fprintf(out, "%s, %s/%s, %d CPUs, %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(out, "Median of %d rounds taken in turns [lowest to highest]. Machines drift: compare lines, not runs.\n", rounds)
	for _, s := range sections {
		if !strings.Contains(s.name, only) {
			continue
		}
		r := &report{rounds: rounds}
		fmt.Fprintf(out, "\n%s: %s\n", s.name, s.about)
		if err := s.measure(ctx, r); err != nil {
			return fmt.Errorf("measuring %s: %w", s.name, err)
		}
		r.print(out)
	}
	return ctx.Err()
}
