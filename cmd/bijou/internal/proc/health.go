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

// firstCheck is the delay before the first health check. Until a check succeeds, the delay grows up to the interval, so
// that a stack is known to be ready soon after it is.
const firstCheck = 150 * time.Millisecond

// watchHealth checks the health until the child has ended. The channel that it returns is closed after the last check.
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
		p.checkUntilEnd(ctx)
	}()
	return done
}

func (p *Process) checkUntilEnd(ctx context.Context) {
	h := p.spec.Health
	begin, failures, succeeded := time.Now(), 0, false
	delay := min(firstCheck, h.Interval)
	for {
		// Half to one and a half of the delay, so that processes that start together are not checked together.
		if !pace.Sleep(ctx, pace.Jitter(delay, 0.5)) {
			return
		}
		err := p.check(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures, succeeded, delay = 0, true, h.Interval
			p.healthIs(Healthy, "")
			continue
		}
		if !succeeded {
			delay = min(delay*3/2, h.Interval)
		}
		if failures++; failures >= h.Retries && time.Since(begin) > h.StartPeriod {
			p.healthIs(Unhealthy, err.Error())
		} else if !succeeded {
			p.healthIs(Starting, err.Error())
		}
	}
}

// healthIs records the result of a check, unless the child is being stopped.
func (p *Process) healthIs(phase Phase, problem string) {
	p.update(func(s *State) {
		if s.PID != 0 && s.Phase != Stopping {
			s.Phase, s.Problem = phase, problem
		}
	})
}

// check runs the health check once.
func (p *Process) check(ctx context.Context) error {
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
	var printed bytes.Buffer
	cmd := exec.CommandContext(ctx, p.spec.Path, h.Args...) //nolint:gosec // running what the plan says is the purpose
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = p.spec.Env, &printed, &printed, time.Second
	err := runTied(cmd, func() {})
	if err == nil {
		return nil
	}
	if line, _, _ := strings.Cut(strings.TrimSpace(printed.String()), "\n"); line != "" {
		return fmt.Errorf("health check: %s", line)
	}
	return fmt.Errorf("health check: %w", err)
}
