// Command audience generates load on the cinema.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/audience"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	o := audience.Options{Out: os.Stdout, Done: stop}
	os.Exit(service.RunMain(ctx, "audience", service.World{
		Args: os.Args[1:], Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr,
	}, func(f *service.Flags) {
		f.StringVar(&o.Target, "audience-target", "http://gateway:8080", "base URL of the cinema")
		f.StringVar(&o.Target, "target", "http://gateway:8080", "short for -audience-target")
		f.BoolVar(&o.Once, "once", false, "run for -duration, print a table and exit")
		f.DurationVar(&o.Duration, "duration", 0, "time in which new sessions begin, with -once (default 30s)")
		f.Float64Var(&o.Rate, "rate", 0, "sessions per second, the default of the setting audience.rate (default 1)")
		f.DurationVar(&o.Ramp, "ramp", 0, "time in which the rate is reached, the default of the setting audience.ramp")
		f.BoolVar(&o.JSON, "json", false, "print the table as JSON, with -once")
		f.Float64Var(&o.Threshold, "threshold", 0, "share of requests that must succeed, with -once (default 0.99)")
	}, func(ctx context.Context, setup *service.Setup) error {
		return audience.New(ctx, setup, o)
	}))
}
