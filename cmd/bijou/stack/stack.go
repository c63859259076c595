// Package stack runs the services of a compose file as processes of this machine.
//
// It is `bijou up` as a library: [Start] builds the binaries, gives every port of every instance a loopback address,
// and keeps the processes running. A [Stack] reports, kills, restarts and stops them. The processes end when the
// program that started the stack ends.
package stack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"bijou.dev/cmd/bijou/internal/compose"
	"bijou.dev/cmd/bijou/internal/proc"
)

// Options says what to run and where. Only File is required.
type Options struct {
	// File is the compose file. Required.
	File string
	// Services to run, with what they depend on. Empty: all that the active profiles enable.
	Services []string
	// Dir has the volumes, the logs and run.json. One stack can run per folder. Empty: ".bijou" beside File.
	Dir string
	// Bin is a folder that [Build] has filled. Empty: Start builds into "bin" below Dir.
	Bin string
	// RandomPorts ignores published port numbers, so that several stacks can run side by side. False: a published port
	// is used if it is free.
	RandomPorts bool
	// Env are further variables of every process; they win over those of the compose file. Nil: none.
	Env map[string]string
	// Variables (KEY=value) are for references in the compose file and for builds. PATH, HOME, TMPDIR and GOCOVERDIR
	// are passed to every process, too. Nil: the environment of this process.
	Variables []string
	// Shuffle starts the instances in random order. Nil: dependencies start first.
	Shuffle *rand.Rand
	// Progress is called with each step of Start, possibly from several goroutines. Nil: it is not reported.
	Progress func(Step)
	// Output gets each line that an instance writes, and each note about it, one at a time. It must not call the stack.
	// Nil: the lines are in the log files only.
	Output func(Line)
}

// Step is a piece of the work of [Start] and [Build].
type Step struct {
	// What is being done: "building config".
	What string `json:"what"`
	// Done of Total pieces of this kind of work are finished.
	Done  int `json:"done"`
	Total int `json:"total"`
}

// Line is a line of an instance's log.
type Line struct {
	Time     time.Time `json:"time"`
	Instance string    `json:"instance"`
	Text     string    `json:"text"`
	// Note means that the line is about the instance and was not written by it.
	Note bool `json:"note,omitempty"`
}

// Instance is a process of the stack.
type Instance struct {
	// Name is "<service>-<n>"; Service is the name in the compose file.
	Name    string `json:"name"`
	Service string `json:"service"`
	// Phase is one of starting, healthy, unhealthy, stopping, restarting, held, exited and stopped.
	Phase string `json:"phase"`
	// PID of the process, 0 when there is none.
	PID int `json:"pid,omitempty"`
	// Started is when the present or last process started, Restarts how many came before it.
	Started  time.Time `json:"started,omitzero"`
	Restarts int       `json:"restarts"`
	// Problem is why it is not healthy.
	Problem string `json:"problem,omitempty"`
	// Ports maps the port in the compose file to the host:port in use.
	Ports map[int]string `json:"ports,omitempty"`
	// Memory is the resident memory in bytes, 0 if unknown. Only [Stack.Instances] measures it.
	Memory int64 `json:"memory,omitempty"`
}

// IsGood reports whether the instance is healthy, or has ended for good with exit code 0.
func (i Instance) IsGood() bool { return isGood(proc.Phase(i.Phase), i.Problem) }

func isGood(phase proc.Phase, problem string) bool {
	return phase == proc.Healthy || phase == proc.Exited && problem == "exit status 0"
}

// Published is a published port.
type Published struct {
	// Name is the name of the port in the compose file, else "service:port".
	Name     string `json:"name"`
	Instance string `json:"instance"`
	// URL is http://..., or host:port when the port does not speak HTTP.
	URL string `json:"url"`
	// Wanted is the port number in the compose file. Port is the number in use, another one if Wanted was taken.
	Wanted int `json:"wanted"`
	Port   int `json:"port"`
	// Holder is the process that has the port Wanted, if it can be found. Empty: this stack has it.
	Holder string `json:"holder,omitempty"`
}

// Stack is a running set of services. Its methods are safe for concurrent use.
type Stack struct {
	opts      Options
	plan      *compose.Plan
	logs      *logs
	ports     *ports
	lock      *os.File
	published []Published
	started   time.Time
	down      chan struct{} // closed by the first request to stop the stack
	downOnce  sync.Once
	control   *control
	gate      chan struct{} // bounds how many health checks run at once

	mu      sync.Mutex
	procs   map[string]*proc.Process // instance -> process
	states  map[string]proc.State    // instance -> state
	changed chan struct{}            // closed and replaced when states change
}

// ErrRunning means that another stack runs in the folder.
var ErrRunning = errors.New("a stack is running here already")

// ErrNoInstance means that the stack has no instance of that name.
var ErrNoInstance = errors.New("no such instance")

// Start builds the binaries and starts every instance. It returns when all were started; [Stack.Wait] waits until they
// are healthy. The end of ctx stops Start, but not a stack that was started.
func Start(ctx context.Context, opts Options) (*Stack, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	s := &Stack{
		opts: opts, procs: map[string]*proc.Process{}, states: map[string]proc.State{},
		changed: make(chan struct{}), down: make(chan struct{}), ports: &ports{}, started: time.Now(),
		gate: make(chan struct{}, runtime.NumCPU()),
	}
	if err := s.prepare(ctx); err != nil {
		s.release()
		return nil, err
	}
	s.ports.close()
	for _, p := range s.order() {
		s.launch(p) //nolint:contextcheck // the stack outlives its start
	}
	return s, nil
}

func (o *Options) complete() error {
	if o.File == "" {
		return errors.New("stack.Options.File: name the compose file")
	}
	file, err := filepath.Abs(o.File)
	if err != nil {
		return fmt.Errorf("stack.Options.File: %w", err)
	}
	o.File = file
	if o.Dir == "" {
		o.Dir = DefaultDir(file)
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return fmt.Errorf("stack.Options.Dir: %w", err)
	}
	if o.Variables == nil {
		o.Variables = environ()
	}
	if o.Progress == nil {
		o.Progress = func(Step) {}
	}
	if o.Output == nil {
		o.Output = func(Line) {}
	}
	return nil
}

// DefaultDir is the folder that a stack of this compose file uses if [Options] name no other.
func DefaultDir(file string) string { return filepath.Join(filepath.Dir(file), ".bijou") }

// prepare does everything that can fail before the first process is started.
func (s *Stack) prepare(ctx context.Context) error {
	if err := s.takeFolder(); err != nil {
		return err
	}
	project, err := compose.Load(ctx, s.opts.File, s.opts.Variables, s.opts.Services...)
	if err != nil {
		return err
	}
	s.plan, err = compose.NewPlan(project, compose.Options{
		Dir: filepath.Join(s.opts.Dir, "volumes"), Port: s.findPort, Env: s.opts.Env,
	})
	if err != nil {
		return err
	}
	s.published = s.publishedPorts()
	if s.opts.Bin == "" {
		s.opts.Bin = filepath.Join(s.opts.Dir, "bin")
		if err := s.build(ctx); err != nil {
			return err
		}
	}
	if s.logs, err = openLogs(filepath.Join(s.opts.Dir, "logs"), s.opts.Output); err != nil {
		return err
	}
	if s.control, err = s.serveControl(); err != nil {
		return err
	}
	for _, p := range s.plan.Processes {
		s.states[p.Name] = proc.State{Phase: proc.Starting}
	}
	s.control.save(s) // before Start returns, so that Attach finds the stack from then on
	return nil
}

// Warnings returns one sentence for each part of the compose file that does not apply to processes.
func (s *Stack) Warnings() []string { return s.plan.Warnings }

func (s *Stack) findPort(wanted int) (int, error) {
	if s.opts.RandomPorts {
		wanted = 0
	}
	return s.ports.find(wanted)
}

func (s *Stack) build(ctx context.Context) error {
	b := builder{root: filepath.Dir(s.opts.File), bin: s.opts.Bin, env: s.opts.Variables, progress: s.opts.Progress}
	return b.all(ctx, s.mains())
}

func (s *Stack) mains() []string {
	mains := make([]string, 0, len(s.plan.Processes))
	for _, p := range s.plan.Processes {
		mains = append(mains, p.Main)
	}
	slices.Sort(mains)
	return slices.Compact(mains)
}

func (s *Stack) publishedPorts() []Published {
	all := make([]Published, 0, len(s.plan.Published))
	for _, p := range s.plan.Published {
		pub := Published{Name: p.Name, Instance: p.Instance, Wanted: p.Wanted, Port: p.Got}
		pub.URL = fmt.Sprintf("127.0.0.1:%d", p.Got)
		if p.Protocol == "http" {
			pub.URL = "http://" + pub.URL
		}
		if p.Wanted != 0 && p.Wanted != p.Got && !s.opts.RandomPorts {
			pub.Holder = PortHolder(p.Wanted)
		}
		all = append(all, pub)
	}
	return all
}

// order is the order of the plan, or a random one.
func (s *Stack) order() []compose.Process {
	order := slices.Clone(s.plan.Processes)
	if r := s.opts.Shuffle; r != nil {
		r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	return order
}

func (s *Stack) launch(p compose.Process) {
	spec := proc.Spec{
		Name: p.Name, Path: s.program(p.Main), Args: p.Args, Env: append(s.inherited(), p.Env...),
		Output:        s.logs.writer(p.Name),
		Prepare:       func() error { return prepareFolders(p.Folders) },
		RestartAlways: p.Restart.Always, RestartOnFailure: p.Restart.OnFailure, RestartMax: p.Restart.Max,
		Grace:   p.Grace,
		Changed: func(state proc.State) { s.noteState(p.Name, state) },
	}
	if p.Health != nil {
		spec.Health = &proc.Health{
			Args: p.Health.Args, Interval: p.Health.Interval, Timeout: p.Health.Timeout,
			StartPeriod: p.Health.StartPeriod, Retries: p.Health.Retries, Gate: s.gate,
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.procs[p.Name] = proc.Start(spec)
}

// inherited returns the variables that each process gets from Variables. All others come from the compose file, as in a
// container.
func (s *Stack) inherited() []string {
	var env []string
	for _, pair := range s.opts.Variables {
		switch name, _, _ := strings.Cut(pair, "="); name {
		case "PATH", "HOME", "TMPDIR", "GOCOVERDIR":
			env = append(env, pair)
		}
	}
	return env
}

// prepareFolders runs before each start of an instance.
func prepareFolders(folders []compose.Folder) error {
	for _, f := range folders {
		if f.Fresh {
			if err := os.RemoveAll(f.Path); err != nil {
				return fmt.Errorf("emptying %s: %w", f.Path, err)
			}
		}
		if err := os.MkdirAll(f.Path, 0o700); err != nil {
			return fmt.Errorf("making %s: %w", f.Path, err)
		}
	}
	return nil
}

// noteState stores the new state of an instance, and writes a note to its log if noteOf has one for the change.
func (s *Stack) noteState(instance string, state proc.State) {
	s.mu.Lock()
	before := s.states[instance]
	s.states[instance] = state
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if note := noteOf(before, state); note != "" {
		s.logs.note(instance, note)
	}
	if before.PID != state.PID {
		s.control.save(s)
	}
}

func noteOf(before, now proc.State) string {
	if before.Phase == now.Phase {
		return ""
	}
	switch now.Phase {
	case proc.Restarting:
		return "ended (" + now.Problem + "), restarting"
	case proc.Exited:
		return "ended (" + now.Problem + ")"
	case proc.Held:
		return "held down"
	case proc.Unhealthy:
		return "unhealthy: " + now.Problem
	case proc.Healthy:
		if before.Phase == proc.Unhealthy || now.Restarts > 0 {
			return "healthy"
		}
	case proc.Stopped:
		// A non-zero exit code means that the stop failed. Some programs, such as etcd, are ended by the signal itself:
		// that is a normal stop.
		if strings.HasPrefix(now.Problem, "exit status") && now.Problem != "exit status 0" {
			return "ended (" + now.Problem + ") while it was stopping"
		}
	case proc.Starting, proc.Stopping:
	}
	return ""
}

// Wait returns when every instance is healthy, or has ended for good with exit code 0. When ctx ends, it returns an
// error that names the other instances.
func (s *Stack) Wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		changed, missing := s.changed, s.missingLocked()
		s.mu.Unlock()
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", strings.Join(missing, ", "), context.Cause(ctx))
		}
	}
}

func (s *Stack) missingLocked() []string {
	var missing []string
	for _, p := range s.plan.Processes {
		state := s.states[p.Name]
		if isGood(state.Phase, state.Problem) {
			continue
		}
		why := string(state.Phase)
		if state.Problem != "" {
			why += ", " + state.Problem
		}
		missing = append(missing, fmt.Sprintf("%s (%s)", p.Name, why))
	}
	return missing
}

// Instances lists all instances, sorted by name, with their memory.
func (s *Stack) Instances() []Instance {
	all := s.instances()
	measureMemory(all)
	return all
}

func (s *Stack) instances() []Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Instance, 0, len(s.plan.Processes))
	for _, p := range s.plan.Processes {
		state := s.states[p.Name]
		all = append(all, Instance{
			Name: p.Name, Service: p.Service, Phase: string(state.Phase), PID: state.PID, Started: state.Started,
			Restarts: state.Restarts, Problem: state.Problem, Ports: p.Ports,
		})
	}
	slices.SortFunc(all, func(a, b Instance) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Published lists the published ports, in the order of the services' names.
func (s *Stack) Published() []Published { return slices.Clone(s.published) }

// Addr returns the host:port of an instance for a port of the compose file, or "" if it has none. The name of a service
// means its first instance.
func (s *Stack) Addr(instance string, port int) string {
	for _, p := range s.plan.Processes {
		if p.Name == instance || p.Service == instance {
			return p.Ports[port]
		}
	}
	return ""
}

func (s *Stack) process(instance string) (*proc.Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.procs[instance]
	if !ok {
		return nil, fmt.Errorf("%w: %q; `bijou status` lists them", ErrNoInstance, instance)
	}
	return p, nil
}

// Kill kills an instance with SIGKILL. Its restart policy decides whether it starts again.
func (s *Stack) Kill(instance string) error {
	p, err := s.process(instance)
	if err != nil {
		return err
	}
	return p.Kill()
}

// Hold kills an instance with SIGKILL and keeps it down until Restart.
func (s *Stack) Hold(ctx context.Context, instance string) error {
	p, err := s.process(instance)
	if err != nil {
		return err
	}
	return p.Hold(ctx)
}

// Restart stops an instance within its grace period and starts it again on the same ports. It returns when the old
// process has ended. It returns an error if that process had to be killed.
func (s *Stack) Restart(ctx context.Context, instance string) error {
	p, err := s.process(instance)
	if err != nil {
		return err
	}
	return p.Restart(ctx)
}

// Logs returns the last lines of an instance's log, at most limit of them (0: all that is kept).
func (s *Stack) Logs(instance string, limit int) ([]Line, error) {
	if _, err := s.process(instance); err != nil {
		return nil, err
	}
	return ReadLogs(s.opts.Dir, limit, instance)
}

// Down is closed when another program, such as `bijou down`, has asked for the end of the stack.
func (s *Stack) Down() <-chan struct{} { return s.down }

// Stop stops all instances, dependencies last, each within its grace period. When ctx ends, it kills the remaining
// ones. The error names each instance that had to be killed.
func (s *Stack) Stop(ctx context.Context) error {
	var problems []error
	last := s.plan.Processes[len(s.plan.Processes)-1].Level
	for level := last; level >= 0; level-- {
		var wg sync.WaitGroup
		errs := make([]error, len(s.plan.Processes))
		for i, p := range s.plan.Processes {
			if p.Level == level {
				wg.Go(func() { errs[i] = s.stop(ctx, p.Name) })
			}
		}
		wg.Wait()
		problems = append(problems, errs...)
	}
	s.release()
	return errors.Join(problems...)
}

func (s *Stack) stop(ctx context.Context, instance string) error {
	p, err := s.process(instance)
	if err != nil {
		return err
	}
	return p.Stop(ctx)
}

// release frees everything except the processes.
func (s *Stack) release() {
	s.ports.close()
	s.control.close()
	s.logs.close()
	if s.lock != nil {
		_ = s.lock.Close() // this frees the lock
	}
}
