// Package audience is the load: subscribers who come to the cinema whether or not it keeps up.
//
// Arrivals are open-loop: sessions begin at the moments of a Poisson process of a set rate, and each step of a session
// is due at a planned moment. Latency is counted from the moment a request was due, not from when it was sent, so a
// server that stalls cannot hide the requests that waited. Sessions that would exceed the limit of sessions at once
// are counted as dropped, which is a failure, never skipped.
package audience

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/service"
)

// Options say where the audience goes and for how long.
type Options struct {
	// Target is the address of the cinema. Empty: http://gateway:8080.
	Target string
	// Once makes the audience come for Duration, print a table and leave; otherwise it comes until the process ends.
	Once bool
	// Duration is how long sessions begin, with Once. Zero: 30 s.
	Duration time.Duration
	// Rate is the default of the live setting audience.rate, in sessions a second; with Once it is the rate whatever the
	// setting says. Zero: 1.
	Rate float64
	// Ramp is the default of the live setting audience.ramp, in which a rate is reached; with Once it is the ramp whatever
	// the setting says. Zero: none.
	Ramp time.Duration
	// Threshold is the share of requests that must succeed, with Once. Zero: 0.99.
	Threshold float64
	// Out receives the table. Nil: nobody.
	Out io.Writer
	// JSON makes the table an object, for programs.
	JSON bool
	// Done is called after a good Once. Nil: nothing happens and the process goes on.
	Done func()
}

func (o Options) complete() (Options, error) {
	if o.Target == "" {
		o.Target = "http://gateway:8080"
	}
	if o.Duration == 0 {
		o.Duration = 30 * time.Second
	}
	if o.Threshold == 0 {
		o.Threshold = 0.99
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	return o, o.validate()
}

func (o Options) validate() error {
	u, err := url.Parse(o.Target)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errs.Errorf(errs.Invalid, "options of the audience").Field("Target", fmt.Sprintf("%q must be an http or https address", o.Target))
	case o.Duration < 0:
		return errs.Errorf(errs.Invalid, "options of the audience").Field("Duration", "must not be negative")
	case o.Rate < 0 || o.Rate > maxRate:
		return errs.Errorf(errs.Invalid, "options of the audience").Field("Rate", "must be 0 to 10000")
	case o.Ramp < 0 || o.Ramp > maxRamp:
		return errs.Errorf(errs.Invalid, "options of the audience").Field("Ramp", "must be 0s to 24h")
	case o.Threshold < 0 || o.Threshold > 1:
		return errs.Errorf(errs.Invalid, "options of the audience").Field("Threshold", "must be 0 to 1")
	}
	return nil
}

// New sets up an audience.
func New(_ context.Context, setup *service.Setup, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	load, err := NewLoad(LoadOptions{
		Target: o.Target, Rate: o.Rate, Ramp: o.Ramp, Fixed: o.Once, DialContext: setup.DialContext, Settings: setup.Config(), Metrics: setup.Metrics(), Log: setup.Log(),
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

// once runs the load for a while and judges it.
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
		return errs.Errorf(errs.Precondition, "judging the load: %.3f %% succeeded, %.3f %% are needed", 100*sum.Success(), 100*o.Threshold)
	}
	if o.Done != nil {
		o.Done()
	}
	return nil
}
