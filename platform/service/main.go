package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes of every service.
const (
	ExitOK     = 0 // stopped as asked, or healthy
	ExitFailed = 1 // could not start, stopped by an error, or not healthy
	ExitUsage  = 2 // flags or environment are wrong
	// ExitKilled is what a shell reports for a process that SIGKILL ended.
	ExitKilled = 137
)

// Main is the whole life of a service's main package: it reads flags and environment, runs until SIGTERM or SIGINT,
// drains, and exits. The argument "healthcheck" asks the process that runs with the same flags whether it is ready
// and exits with 0 or 1; "version" prints the version.
func Main(name string, own func(*Flags), setup SetupFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(RunMain(ctx, name, World{os.Args[1:], os.Getenv, os.Stdout, os.Stderr}, own, setup))
}

// World is what a program gets from the operating system. All fields are required.
type World struct {
	Args           []string                 // without the name of the program
	Getenv         func(name string) string // "": not set
	Stdout, Stderr io.Writer
}

// RunMain is [Main] with the outside world as an argument, for tests. It returns the exit code.
func RunMain(ctx context.Context, name string, w World, own func(*Flags), setup SetupFunc) int {
	command, args := "", w.Args
	if len(args) > 0 && (args[0] == "healthcheck" || args[0] == "version") {
		command, args = args[0], args[1:]
	}
	o, err := parse(func() { os.Exit(ExitKilled) }, name, args, w, own)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return ExitOK
	case err != nil:
		fmt.Fprintf(w.Stderr, "%s: %v\n", name, err)
		return ExitUsage
	case command == "version":
		fmt.Fprintln(w.Stdout, Version())
		return ExitOK
	case command == "healthcheck":
		err = checkHealth(ctx, o)
	default:
		err = run(ctx, o, setup)
	}
	if err != nil {
		fmt.Fprintf(w.Stderr, "%s: %v\n", name, err)
		return ExitFailed
	}
	return ExitOK
}

func run(ctx context.Context, o Options, setup SetupFunc) error {
	if err := stayDown(ctx, o); err != nil || ctx.Err() != nil {
		return err
	}
	p, err := New(ctx, o, setup)
	if err != nil {
		return err
	}
	return p.Run(ctx)
}
