// Package proc keeps child processes running: it starts them, restarts them by policy with back-off, checks their
// health, and stops them within their grace period. A [Process] is one child at a time: after a restart it is the next
// child.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"bijou.dev/platform/pace"
)

// Spec says what to run.
type Spec struct {
	// Name for people.
	Name string
	// Path of the program, its arguments, and its whole environment: nothing is inherited.
	Path      string
	Args, Env []string
	// Output gets standard output and error. Nil: discarded. It must be safe for use by successive children.
	Output io.Writer
	// Prepare runs before each start. Nil: nothing.
	Prepare func() error
	// RestartAlways restarts after any end, RestartOnFailure after an exit code other than 0.
	RestartAlways, RestartOnFailure bool
	// RestartMax is the number of restarts in a row; 0 for no limit.
	RestartMax int
	// Grace is how long a stop may take before the child is killed. 0: 10 s.
	Grace time.Duration
	// Health is the health check. Nil: the process is healthy as long as it runs.
	Health *Health
	// Changed is called after each change of state, never concurrently. It must not call the process. Nil: nothing.
	Changed func(State)
}

// Health is a check that runs the program of the child with other arguments. Exit code 0 means healthy.
type Health struct {
	Args []string
	// Interval between two checks, and the longest that a check may take.
	Interval, Timeout time.Duration
	// StartPeriod is the time in which failures do not count.
	StartPeriod time.Duration
	// Retries is the number of failures in a row that make the child unhealthy.
	Retries int
	// Gate bounds how many checks run at once over all processes. Nil: no bound.
	Gate chan struct{}
}

// Phase is the state of a process in one word.
type Phase string

// The phases. A process without a health check is healthy as soon as it runs.
const (
	Starting   Phase = "starting"   // running, not healthy yet
	Healthy    Phase = "healthy"    // running, and its health check succeeds
	Unhealthy  Phase = "unhealthy"  // running, and its health check fails
	Stopping   Phase = "stopping"   // got SIGTERM
	Restarting Phase = "restarting" // ended, will be started again
	Held       Phase = "held"       // kept down until Restart
	Exited     Phase = "exited"     // ended, and its restart policy does not start it again
	Stopped    Phase = "stopped"    // ended by Stop
)

// State is what is known about a process.
type State struct {
	Phase Phase
	// PID of the running child, 0 when there is none.
	PID int
	// Started is when the present or last child started.
	Started time.Time
	// Restarts since the process was started first.
	Restarts int
	// Problem is why it is not healthy: how the last child ended, or what its health check printed.
	Problem string
}

// The back-off between restarts doubles from the first to the longest; a child that lived this long resets it.
const (
	firstBackoff   = 100 * time.Millisecond
	longestBackoff = 10 * time.Second
	livedLong      = 10 * time.Second
	defaultGrace   = 10 * time.Second
)

// Process runs one child at a time. Its methods are safe for concurrent use.
type Process struct {
	spec Spec
	wake chan struct{} // has an element when want or again may have changed
	done chan struct{} // closed when the process will not run again

	mu    sync.Mutex
	state State
	want  Phase // Healthy (to run), Held or Stopped
	again bool  // start the next child at once, without back-off
	kill  func(syscall.Signal) error
	ended chan struct{} // closed when the present child has ended
}

// Start starts a child. The process runs until Stop, or until a child ends that the restart policy does not replace.
func Start(spec Spec) *Process {
	if spec.Grace == 0 {
		spec.Grace = defaultGrace
	}
	if spec.Changed == nil {
		spec.Changed = func(State) {}
	}
	p := &Process{spec: spec, wake: make(chan struct{}, 1), done: make(chan struct{}), want: Healthy}
	p.state.Phase = Starting
	go p.run()
	return p
}

// State returns the present state.
func (p *Process) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Done is closed when the process has ended for good.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill kills the child with SIGKILL. The restart policy decides whether another one is started.
func (p *Process) Kill() error {
	_, err := p.signal(syscall.SIGKILL)
	return err
}

// Hold kills the child with SIGKILL and keeps it down until Restart.
func (p *Process) Hold(ctx context.Context) error {
	if err := p.set(Held, false); err != nil {
		return fmt.Errorf("holding %s: %w", p.spec.Name, err)
	}
	if ended, err := p.signal(syscall.SIGKILL); err == nil {
		return wait(ctx, ended)
	}
	return nil // there is no child
}

// Restart stops the child within its grace period and starts the next one at once, also when it was held.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.set(Healthy, true); err != nil {
		return fmt.Errorf("restarting %s: %w", p.spec.Name, err)
	}
	return p.terminate(ctx)
}

// Stop stops the child within its grace period, or at once when ctx ends, and waits for it. It returns an error if the
// child had to be killed.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.set(Stopped, false) // an error means that it has ended already
	err := p.terminate(ctx)
	<-p.done
	return err
}

// set records what is wanted. It fails after the end, and for anything but Stopped while the process is being stopped:
// otherwise Stop would wait for a process that runs again.
func (p *Process) set(want Phase, again bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state.Phase == Exited || p.state.Phase == Stopped:
		return errors.New("it has ended for good")
	case p.want == Stopped && want != Stopped:
		return errors.New("it is being stopped")
	}
	p.want, p.again = want, again
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// signal sends s to the child's process group and returns a channel that is closed when the child has ended.
func (p *Process) signal(s syscall.Signal) (<-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kill == nil {
		return nil, fmt.Errorf("signalling %s: it is not running (%s)", p.spec.Name, p.state.Phase)
	}
	return p.ended, p.kill(s)
}

func (p *Process) terminate(ctx context.Context) error {
	ended, err := p.signal(syscall.SIGTERM)
	if err != nil {
		return nil // there is no child
	}
	p.update(func(s *State) { s.Phase = Stopping })
	grace, cancel := context.WithTimeout(ctx, p.spec.Grace)
	defer cancel()
	if wait(grace, ended) == nil {
		return nil
	}
	// The child may have ended in the meantime; then there is no process to kill.
	_, _ = p.signal(syscall.SIGKILL)
	<-ended
	if ctx.Err() != nil {
		return fmt.Errorf("stopping %s: killed: %w", p.spec.Name, context.Cause(ctx))
	}
	return fmt.Errorf("stopping %s: killed after its grace period of %v", p.spec.Name, p.spec.Grace)
}

func wait(ctx context.Context, ended <-chan struct{}) error {
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *Process) update(change func(*State)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.updateLocked(change)
}

func (p *Process) updateLocked(change func(*State)) {
	before := p.state
	change(&p.state)
	if p.state != before {
		p.spec.Changed(p.state)
	}
}

func (p *Process) run() {
	defer close(p.done)
	backoff, inARow := pace.Backoff{First: firstBackoff, Max: longestBackoff}, 0
	for {
		started := time.Now()
		err := p.child()
		if time.Since(started) > livedLong {
			backoff.Reset()
			inARow = 0
		}
		if !p.goOn(err, inARow) || !p.pause(backoff.Next(), err) {
			return
		}
		inARow++
		p.update(func(s *State) { s.Restarts++ })
	}
}

// goOn reports whether another child will be started, and sets the final state if not.
func (p *Process) goOn(err error, inARow int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	problem := problemOf(err)
	switch {
	case p.want == Stopped:
		p.updateLocked(func(s *State) { s.Phase, s.PID, s.Problem = Stopped, 0, problem })
		return false
	case p.want == Held || p.again:
		return true
	}
	policy := p.spec.RestartAlways || p.spec.RestartOnFailure && err != nil
	if !policy || p.spec.RestartMax > 0 && inARow >= p.spec.RestartMax {
		p.updateLocked(func(s *State) { s.Phase, s.PID, s.Problem = Exited, 0, problem })
		return false
	}
	return true
}

// pause waits until the next child must be started: for wait, or while held. It returns false if none will be started.
func (p *Process) pause(wait time.Duration, err error) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	problem := problemOf(err)
	for due := false; ; {
		p.mu.Lock()
		want, again := p.want, p.again
		if want == Healthy && (again || due) {
			p.again = false
		}
		p.mu.Unlock()
		switch {
		case want == Stopped:
			p.update(func(s *State) { s.Phase, s.PID, s.Problem = Stopped, 0, problem })
			return false
		case want == Held:
			p.update(func(s *State) { s.Phase, s.PID, s.Problem = Held, 0, "held down" })
		case again || due:
			return true
		default:
			p.update(func(s *State) { s.Phase, s.PID, s.Problem = Restarting, 0, problem })
		}
		select {
		case <-timer.C:
			due = true
		case <-p.wake:
		}
	}
}

func problemOf(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// child runs one child from start to end.
func (p *Process) child() error {
	if p.spec.Prepare != nil {
		if err := p.spec.Prepare(); err != nil {
			return err
		}
	}
	cmd := exec.Command(p.spec.Path, p.spec.Args...) //nolint:gosec // running what the plan says is the purpose
	cmd.Env, cmd.Stdout, cmd.Stderr = p.spec.Env, p.spec.Output, p.spec.Output
	// Without a delay, a grandchild that keeps the output open would hide the end of the child.
	cmd.WaitDelay = time.Second
	ended := make(chan struct{})
	started := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.again = false
		p.ended, p.kill = ended, func(s syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, s) }
		// Stop or Hold may have been called while the child was being started.
		if p.want != Healthy {
			_ = p.kill(syscall.SIGKILL)
		}
	}
	health := p.watchHealth(ended)
	err := runTied(cmd, func() {
		started()
		p.update(func(s *State) {
			s.Phase, s.PID, s.Started, s.Problem = Starting, cmd.Process.Pid, time.Now(), ""
			if p.spec.Health == nil {
				s.Phase = Healthy
			}
		})
	})
	p.mu.Lock()
	p.kill = nil
	p.mu.Unlock()
	close(ended)
	<-health
	return err
}
