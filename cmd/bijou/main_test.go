package main

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain runs the command if the test binary is called bijou, so that scripts run the real main.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bijou": main})
}

func TestScripts(t *testing.T) {
	goEnv := func(name string) string {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	cache, root := goEnv("GOCACHE"), goEnv("GOROOT")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GOCACHE", cache)
			e.Setenv("GOROOT", root)
			e.Setenv("USER", "ann")
			// With the race detector each command would wait for a second before it ends.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "await": await, "awaits": awaits,
		},
	})
}

// exits runs a command and compares its exit code: exits 3 bijou kill unknown-1.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// await runs a command until it succeeds.
func await(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.After(time.Minute)
	for ts.Exec(args[0], args[1:]...) != nil {
		select {
		case <-deadline:
			ts.Fatalf("not within a minute: %v", args)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaits runs a command until its output matches an expression: awaits 'ready$' bijou logs demo-1.
func awaits(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.After(time.Minute)
	for {
		if ts.Exec(args[1], args[2:]...) == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("no match for `%s` within a minute: %v", args[0], args[1:])
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestMainIsSmall(t *testing.T) {
	text, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n > 30 {
		t.Errorf("main.go has %d lines, want at most 30: what it does belongs into package cli, which tests can call", n)
	}
}
