package stack_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
	"bijou.dev/platform/errs"
	"github.com/google/go-cmp/cmp"
)

// serveRecord makes a folder with the record of a stack that runs, whose socket is served by handler. It returns the
// folder and a function that ends the server and leaves its files, as when a program is killed.
func serveRecord(t *testing.T, handler http.HandlerFunc) (dir string, kill func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "stack") // short: the name of a socket has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "bijou.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	writeRecord(t, dir, stack.Run{Socket: l.Addr().String()})
	return dir, func() { _, _ = l.Close(), server.Close() }
}

func writeRecord(t *testing.T, dir string, run stack.Run) {
	t.Helper()
	text, err := json.Marshal(run)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "run.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func attach(t *testing.T, dir string) *stack.Remote {
	t.Helper()
	remote, err := stack.Attach(dir)
	if err != nil {
		t.Fatal(err)
	}
	return remote
}

func TestTheRecordOfAStackThatWasKilledIsNotAStack(t *testing.T) {
	dir, kill := serveRecord(t, http.NotFound)
	kill()
	remote := attach(t, dir)
	_, err := remote.Run(t.Context())
	for what, err := range map[string]error{
		"Run": err, "Down": remote.Down(t.Context()), "Kill": remote.Kill(t.Context(), "a-1"),
		"Hold": remote.Hold(t.Context(), "a-1"), "Restart": remote.Restart(t.Context(), "a-1"),
	} {
		if !errors.Is(err, stack.ErrNotRunning) {
			t.Errorf("%s = %v, want ErrNotRunning", what, err)
		}
	}
}

func TestABrokenRecordDoesNotHinderTheNextStart(t *testing.T) {
	opts := options(t, oneService(""))
	dir := stack.DefaultDir(opts.File)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "run.json"), []byte(`{"pid": 12`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := stack.Attach(dir); err == nil || !strings.HasPrefix(err.Error(), "reading run.json: ") {
		t.Errorf("Attach = %v, want that run.json cannot be read", err)
	}
	s := start(t, opts)
	if run, err := attach(t, dir).Run(t.Context()); err != nil || len(run.Instances) != 1 {
		t.Errorf("after a start Run = %+v, %v", run, err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAStartAfterAKilledStackLeavesOtherProcessesAlone(t *testing.T) {
	opts := options(t, oneService(""))
	dir := stack.DefaultDir(opts.File)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// Another program, here this test, may have got the id of a process that has ended.
	writeRecord(t, dir, stack.Run{
		Bin: opts.Bin, Socket: filepath.Join(dir, "bijou.sock"),
		Instances: []stack.Instance{{Name: "one-1", PID: os.Getpid()}, {Name: "one-2", PID: 1 << 30}},
	})
	start(t, opts)
}

func TestDownEndsWhenTheProgramIsKilledMeanwhile(t *testing.T) {
	var kill func()
	dir, kill := serveRecord(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/run" {
			kill() // between the order and the end of the stack
		}
	})
	if err := attach(t, dir).Down(t.Context()); err != nil {
		t.Errorf("Down = %v, want no error: the stack does not run any more", err)
	}
}

func TestDownWaitsUntilItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	dir, _ := serveRecord(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "{}")
		if r.URL.Path == "/run" { // it has asked for the end and sees that the stack still runs
			cancel(errors.New("interrupted"))
		}
	})
	err := attach(t, dir).Down(ctx)
	if err == nil || err.Error() != "waiting for the stack to end: interrupted" {
		t.Errorf("Down = %v, want that it was interrupted", err)
	}
}

func TestRefusalsOfAStackKeepTheirText(t *testing.T) {
	dir, _ := serveRecord(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/instances/a-1/kill":
			http.Error(w, "signalling a-1: it is not running (held)", http.StatusConflict)
		case "/instances/a b/kill", "/instances/../run/kill":
			http.Error(w, "no such instance", http.StatusNotFound)
		default:
			fmt.Fprint(w, "<html>")
		}
	})
	remote := attach(t, dir)
	if err := remote.Kill(t.Context(), "a-1"); err == nil || err.Error() != "signalling a-1: it is not running (held)" {
		t.Errorf("Kill = %v, want the text of the stack", err)
	}
	for _, name := range []string{"a b", "../run"} {
		if err := remote.Kill(t.Context(), name); !errors.Is(err, stack.ErrNoInstance) ||
			!strings.Contains(err.Error(), fmt.Sprintf("%q", name)) {
			t.Errorf("Kill(%q) = %v, want ErrNoInstance with the name", name, err)
		}
	}
	if _, err := remote.Run(t.Context()); err == nil {
		t.Error("an answer that is no JSON is taken for a record")
	}
}

// logLine is a line of a log file.
func logLine(second int, mark, text string) string {
	return time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC).Format("2006-01-02T15:04:05.000000Z") + mark + text + "\n"
}

func writeLog(t *testing.T, dir, name string, lines ...string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "logs", name), []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func texts(lines []stack.Line) []string {
	var all []string
	for _, l := range lines {
		all = append(all, l.Instance+": "+l.Text)
	}
	return all
}

func TestLogsAreInTheOrderOfTime(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, dir, "web-1.log.1", logLine(1, " | ", "first"))
	writeLog(t, dir, "web-1.log", logLine(3, " | ", "third"), logLine(5, " * ", "fifth | with a mark"),
		"no time | x\n", "x\n", "2026-01-01T00:00:09.000000Z | not comp") // the last line is being written
	writeLog(t, dir, "web-api-1.log", logLine(2, " | ", "second"), logLine(4, " | ", ""))
	writeLog(t, dir, "notes.txt", "x")
	all := []string{"web-1: first", "web-api-1: second", "web-1: third", "web-api-1: ", "web-1: fifth | with a mark"}
	for name, test := range map[string]struct {
		limit int
		names []string
		want  []string
	}{
		"all":                 {0, nil, all},
		"more than there are": {100, nil, all},
		"a negative limit":    {-1, nil, all},
		"the last two":        {2, nil, all[3:]},
		"an instance":         {0, []string{"web-1"}, []string{all[0], all[2], all[4]}},
		"a service":           {1, []string{"web-api"}, all[3:4]},
		"both":                {0, []string{"web", "web-api-1"}, all},
	} {
		t.Run(name, func(t *testing.T) {
			lines, err := stack.ReadLogs(dir, test.limit, test.names...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, texts(lines)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
	for _, name := range []string{"web-2", "we", "notes", "web-1.log", ""} {
		if _, err := stack.ReadLogs(dir, 0, name); !errors.Is(err, stack.ErrNoInstance) {
			t.Errorf("ReadLogs(%q) = %v, want ErrNoInstance", name, err)
		}
	}
}

func TestLogsOfAFolderWithoutAStack(t *testing.T) {
	_, err := stack.ReadLogs(t.TempDir(), 0)
	if errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), "`bijou up` writes them") {
		t.Errorf("ReadLogs = %v, want NotFound and what writes logs", err)
	}
	if err := stack.FollowLogs(t.Context(), t.TempDir(), 0, func(stack.Line) {}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("FollowLogs = %v, want NotFound", err)
	}
}

// A full log file gets another name, and a new one begins. The last lines of the old file are shown, too.
func TestFollowedLogsLoseNoLineWhenANewFileBegins(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "logs", "a-1.log")
	writeLog(t, dir, "a-1.log", logLine(1, " | ", "one"), logLine(2, " | ", "two"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []stack.Line
	err := stack.FollowLogs(ctx, dir, 0, func(l stack.Line) {
		got = append(got, l)
		switch l.Text {
		case "two":
			old, err := os.ReadFile(file)
			if err != nil {
				t.Error(err)
			}
			writeLog(t, dir, "a-1.log.1", string(old), logLine(3, " | ", "three"))
			writeLog(t, dir, "a-1.log", logLine(4, " | ", "four"))
		case "four":
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a-1: one", "a-1: two", "a-1: three", "a-1: four"}, texts(got)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestFollowedLogsStartWithTheLastLines(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, dir, "a-1.log", logLine(1, " | ", "one"), logLine(2, " | ", "two"), logLine(3, " | ", "three"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []stack.Line
	if err := stack.FollowLogs(ctx, dir, 2, func(l stack.Line) {
		if got = append(got, l); len(got) == 2 {
			cancel()
		}
	}, "a"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a-1: two", "a-1: three"}, texts(got)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
