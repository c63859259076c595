package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"bijou.dev/cmd/bijou/internal/term"
	"bijou.dev/cmd/bijou/stack"
)

type upCmd struct {
	Services []string `arg:"" optional:"" help:"Only these services and their dependencies."`
	Quiet    bool     `short:"q" help:"Do not show the logs of instances; they are written to files as usual."`
	Raw      bool     `help:"Show log lines as they were written."`
	Random   bool     `name:"random-ports" help:"Ignore published port numbers, to run a second stack with its own --dir."`
}

// Help is what `bijou up --help` prints before the flags.
func (upCmd) Help() string {
	return `Builds each service with Go, gives every port of every instance a loopback port, starts all instances,
prints the addresses when all are healthy, and stops in reverse order on Ctrl-C; a second Ctrl-C kills. Needs only Go.

    bijou up                      the whole platform
    bijou up hello                one service and its dependencies
    bijou up -q                   without the logs, which "bijou logs -f" shows
    bijou up --json               an object per line: step, line, note, and ready with the addresses

Meanwhile, from another terminal: bijou status, logs, kill, restart, down.`
}

// Run is `bijou up`.
func (c *upCmd) Run(ctx context.Context, e *env) error {
	file, err := e.composeFile()
	if err != nil {
		return err
	}
	begin := time.Now()
	s := newScreen(e, c)
	st, err := stack.Start(ctx, stack.Options{
		File: file, Services: c.Services, Dir: e.program.Dir, Variables: e.Environ, RandomPorts: c.Random,
		Progress: s.step, Output: s.line,
	})
	if err != nil {
		s.clear()
		if ctx.Err() != nil {
			return errors.New("interrupted before the stack was started")
		}
		return err
	}
	built := time.Since(begin)
	for _, text := range st.Warnings() {
		s.note(s.style.Yellow, "%s", text)
	}
	if s.ready(ctx, st) == nil {
		s.table(st, built, time.Since(begin)-built)
		select {
		case <-ctx.Done():
		case <-st.Down():
		}
	}
	return s.stop(e.Now, st) //nolint:contextcheck // ctx has ended; Now ends with the second Ctrl-C
}

// event is a line that `bijou up --json` prints. One field is set.
type event struct {
	Step  *stack.Step `json:"step,omitempty"`
	Line  *stack.Line `json:"line,omitempty"`
	Note  string      `json:"note,omitempty"`
	Ready *readyEvent `json:"ready,omitempty"`
}

// readyEvent has the addresses, and how long the build and the start took.
type readyEvent struct {
	Published      []stack.Published `json:"published"`
	Instances      []stack.Instance  `json:"instances"`
	BuiltSeconds   float64           `json:"builtSeconds"`
	HealthySeconds float64           `json:"healthySeconds"`
	Memory         int64             `json:"memory"`
}

// screen writes everything that `bijou up` prints to standard output.
type screen struct {
	*upCmd
	out     io.Writer
	json    *json.Encoder // nil: text
	style   term.Style
	isTerm  bool
	columns int

	mu       sync.Mutex
	progress bool // the last line is a progress line, which the next output replaces
	stopping bool // lines of instances are not shown any more
	longest  int  // the length of the longest instance name so far
}

func newScreen(e *env, c *upCmd) *screen {
	isTerm, columns := term.Size(e.Stdout)
	s := &screen{
		upCmd: c, out: e.Stdout, style: e.style, isTerm: isTerm, columns: columns,
		longest: len("recommendations-a-1"),
	}
	if e.program.JSON {
		s.json, s.isTerm, s.style.On = json.NewEncoder(e.Stdout), false, false
	}
	return s
}

// emit prints an event if --json is given, and returns whether it is.
func (s *screen) emit(ev event) bool {
	if s.json == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.json.Encode(ev) // an error means that the reader has closed the pipe; the stack keeps running
	return true
}

// step shows the progress of the build: one line that changes on a terminal, one line per step elsewhere.
func (s *screen) step(step stack.Step) {
	if s.emit(event{Step: &step}) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf("[%d/%d] %s", step.Done, step.Total, step.What)
	if s.isTerm {
		fmt.Fprint(s.out, "\r\x1b[K", term.Cut(term.Plain(text), s.columns-1))
		s.progress = true
	} else {
		fmt.Fprintln(s.out, text)
	}
}

func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clearLocked()
}

func (s *screen) clearLocked() {
	if s.progress {
		fmt.Fprint(s.out, "\r\x1b[K")
		s.progress = false
	}
}

func (s *screen) note(style func(string) term.Painted, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if s.emit(event{Note: text}) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clearLocked()
	fmt.Fprintln(s.out, style(text))
}

// line shows a log line.
func (s *screen) line(l stack.Line) {
	if s.Quiet && !l.Note || s.emit(event{Line: &l}) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping && !l.Note {
		return
	}
	s.clearLocked()
	s.longest = max(s.longest, len(l.Instance))
	writeLine(s.out, s.style, s.longest, s.Raw, l)
}

func writeLine(w io.Writer, style term.Style, longest int, raw bool, l stack.Line) {
	name := term.Pad(style.Name(serviceOf(l.Instance), l.Instance), longest)
	text := term.Painted(l.Text) // with --raw as it was written
	switch {
	case l.Note:
		text = style.Yellow("-- " + l.Text)
	case !raw:
		text = term.LogLine(style, l.Text, "service", "instance")
	}
	_ = term.Fprintf(w, "%s | %s\n", name, text)
}

// serviceOf cuts the number off the name of an instance.
func serviceOf(instance string) string {
	for i := len(instance) - 1; i > 0; i-- {
		if instance[i] == '-' {
			return instance[:i]
		}
	}
	return instance
}

// ready waits until all instances are healthy. It prints which are not after 10 s and then every 30 s. It returns an
// error when the stack must stop.
func (s *screen) ready(ctx context.Context, st *stack.Stack) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with ctx
		select {
		case <-st.Down():
			cancel()
		case <-ctx.Done():
		}
	}()
	for wait := 10 * time.Second; ; wait = 30 * time.Second {
		soon, stop := context.WithTimeout(ctx, wait)
		err := st.Wait(soon)
		stop()
		if err == nil || ctx.Err() != nil {
			return err
		}
		s.note(s.style.Yellow, "still %s", strings.TrimSuffix(err.Error(), ": "+context.DeadlineExceeded.Error()))
	}
}

// table shows the addresses, and how long the build and the start took.
func (s *screen) table(st *stack.Stack, built, healthy time.Duration) {
	t := term.Table{Header: []string{"WHAT", "WHERE", ""}}
	for _, p := range st.Published() {
		var note term.Painted
		if p.Holder != "" {
			note = s.style.Yellow(fmt.Sprintf("port %d is taken by %s", p.Wanted, p.Holder))
		}
		t.Add(p.Name, s.style.Bold(p.URL), note)
	}
	instances := st.Instances()
	var memory int64
	for _, i := range instances {
		memory += i.Memory
	}
	if s.emit(event{Ready: &readyEvent{st.Published(), instances, built.Seconds(), healthy.Seconds(), memory}}) {
		return
	}
	for _, i := range instances {
		if addr := i.Ports[adminPort]; addr != "" && i.Name == "gateway-1" {
			t.Add("gateway admin", "http://"+addr, s.style.Dim("bijou status lists the admin pages of all instances"))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clearLocked()
	fmt.Fprintln(s.out)
	width := 0
	if s.isTerm {
		width = s.columns
	}
	_ = t.Write(s.out, s.style, width)
	fmt.Fprintf(s.out, "\n%s  Ctrl-C stops it.\n\n",
		s.style.Green(fmt.Sprintf("Built in %.1f s, %d instances healthy in %.1f s, %s of memory.",
			built.Seconds(), len(instances), healthy.Seconds(), term.Bytes(memory))))
}

func (s *screen) stop(now context.Context, st *stack.Stack) error {
	begin := time.Now()
	s.note(s.style.Yellow, "stopping; Ctrl-C again kills")
	// Instances that stop log errors about others that have stopped. These are expected: only the log files have them.
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	err := st.Stop(now)
	if err == nil {
		s.note(s.style.Bold, "stopped in %.1f s", time.Since(begin).Seconds())
	}
	return err
}
