// Package audience generates load: simulated users of the cinema, at a rate that does not depend on how fast it
// answers.
//
// The load is open-loop: sessions begin at the times of a Poisson process with a given rate, and each step of a session
// is due at a planned time. Latency is measured from the time at which a request was due, not from the time at which it
// was sent, so that it includes the wait for a stalled server. A session above the limit of concurrent sessions is
// counted as dropped, which is a failure.
package audience

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/service"
)

// Options is what the command line sets. The zero value is ready to use.
type Options struct {
	// Target is the base URL of the cinema, http or https. Empty: http://gateway:8080.
	Target string
	// Once runs the load for Duration and prints a table. False: the load runs until the process stops.
	Once bool
	// Duration is the time in which new sessions begin, with Once. Zero: 30 s.
	Duration time.Duration
	// Rate is the default of the live setting audience.rate, in sessions per second, at most 10,000. With Once, Rate is
	// used and not the setting. Zero: 1.
	Rate float64
	// Ramp is the default of the live setting audience.ramp, the time in which a new rate is reached, at most 24 h. With
	// Once, Ramp is used and not the setting. Zero: the rate is reached at once.
	Ramp time.Duration
	// Threshold is the share of requests that must succeed with Once, up to 1. Zero: 0.99.
	Threshold float64
	// Out gets the table. Nil: it is not printed.
	Out io.Writer
	// JSON prints a JSON object for programs. False: a table for people.
	JSON bool
	// Done is called when a run with Once has reached Threshold. Nil: nothing is called, and the process keeps running.
	Done func()
}

func (o Options) complete() (Options, error) {
	o.Target = cmp.Or(o.Target, "http://gateway:8080")
	o.Duration = cmp.Or(o.Duration, 30*time.Second)
	o.Rate = cmp.Or(o.Rate, 1)
	o.Threshold = cmp.Or(o.Threshold, 0.99)
	if o.Out == nil {
		o.Out = io.Discard
	}
	var bad errs.Violations
	checkLoad(&bad, o.Target, o.Rate, o.Ramp)
	if o.Duration < 0 {
		bad.Addf("Duration", "must not be negative, is %v", o.Duration)
	}
	if !(o.Threshold > 0 && o.Threshold <= 1) {
		bad.Addf("Threshold", "must be more than 0 and at most 1, is %v", o.Threshold)
	}
	return o, bad.Err("options of the audience")
}

// checkLoad checks the fields that Options and LoadOptions share.
func checkLoad(bad *errs.Violations, target string, rate float64, ramp time.Duration) {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		bad.Addf("Target", "must be an http or https URL, is %.200q", target)
	}
	if !(rate >= 0 && rate <= maxRate) {
		bad.Addf("Rate", "must be 0 to %d sessions per second, is %v", maxRate, rate)
	}
	if ramp < 0 || ramp > maxRamp {
		bad.Addf("Ramp", "must be 0s to %v, is %v", maxRamp, ramp)
	}
}

// New sets up an audience.
func New(_ context.Context, setup *service.Setup, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	finish := stopWithin
	if o.Once {
		finish = finishWithin // the load ends by itself
	}
	load, err := NewLoad(LoadOptions{
		Finish: finish, Target: o.Target, Rate: o.Rate, Ramp: o.Ramp, Fixed: o.Once,
		DialContext: setup.DialContext, Settings: setup.Config(), Metrics: setup.Metrics(), Log: setup.Log(),
	})
	if err != nil {
		return err
	}
	if !o.Once {
		setup.Go("audience", load.Run)
		return nil
	}
	setup.Go("audience", func(ctx context.Context) error { return once(ctx, load, o) })
	return nil
}

// once runs the load for o.Duration, prints the summary, and returns an error if too many requests failed.
func once(ctx context.Context, load *Load, o Options) error {
	run, stop := context.WithTimeout(ctx, o.Duration)
	defer stop()
	if err := load.Run(run); err != nil {
		return err
	}
	sum := load.Summary()
	if err := sum.print(o.Out, o.JSON); err != nil {
		return fmt.Errorf("printing the summary: %w", err)
	}
	if sum.Success() < o.Threshold {
		return errs.Errorf(errs.Precondition, "running the load: %.3f %% of the requests succeeded, %.3f %% are required",
			100*sum.Success(), 100*o.Threshold)
	}
	if o.Done != nil {
		o.Done()
	}
	return nil
}
