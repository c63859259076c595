// Command bijou runs the platform on this machine, and queries and changes a running platform.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"bijou.dev/cmd/bijou/internal/cli"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, stop := context.WithCancel(context.Background())
	now, force := context.WithCancel(context.Background())
	go func() {
		<-signals // the first signal starts an orderly stop
		stop()
		<-signals // the second signal kills
		force()
	}()
	os.Exit(cli.Main(ctx, cli.World{
		Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(),
		Now: now,
	}))
}
