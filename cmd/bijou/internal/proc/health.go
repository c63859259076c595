package proc

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"bijou.dev/platform/pace"
)

// Before a child has answered once it is asked soon and then ever less often, up to the interval of its check: that
// is how a stack is known to be ready the moment it is.
const firstQuestion = 150 * time.Millisecond

// watchHealth asks until the child has ended; the channel it returns is closed after the last question.
func (p *Process) watchHealth(ended <-chan struct{}) <-chan struct{} {
	done := make(chan struct{})
	if p.spec.Health == nil {
		close(done)
		return done
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-ended
		cancel()
	}()
	go func() {
		defer close(done)
		p.askForever(ctx)
	}()
	return done
}

func (p *Process) askForever(ctx context.Context) {
	h := p.spec.Health
	begin, failures, well := time.Now(), 0, false
	delay := min(firstQuestion, h.Interval)
	for {
		// Half to one and a half of the delay: many processes that start together do not ask together.
		if !pace.Sleep(ctx, pace.Jitter(delay, 0.5)) {
			return
		}
		err := p.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures, well, delay = 0, true, h.Interval
			p.healthIs(Healthy, "")
			continue
		}
		if !well {
			delay = min(delay*3/2, h.Interval)
		}
		if failures++; failures >= h.Retries && time.Since(begin) > h.StartPeriod {
			p.healthIs(Unhealthy, err.Error())
		} else if !well {
			p.healthIs(Starting, err.Error())
		}
	}
}

// healthIs records an answer, unless the child is being stopped.
func (p *Process) healthIs(phase Phase, problem string) {
	p.update(func(s *State) {
		if s.PID != 0 && s.Phase != Stopping {
			s.Phase, s.Problem = phase, problem
		}
	})
}

// ask runs the health check once.
func (p *Process) ask(ctx context.Context) error {
	h := p.spec.Health
	if h.Gate != nil {
		select {
		case h.Gate <- struct{}{}:
			defer func() { <-h.Gate }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if h.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.Timeout)
		defer cancel()
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, p.spec.Path, h.Args...) //nolint:gosec // running what the plan says is the purpose
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = p.spec.Env, &said, &said, time.Second
	err := runTied(cmd, func() {})
	if err == nil {
		return nil
	}
	if line, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n"); line != "" {
		return fmt.Errorf("health check: %s", line)
	}
	return fmt.Errorf("health check: %w", err)
}
