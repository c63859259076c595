package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"bijou.dev/cmd/bijou/internal/term"
	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

type circuitsCmd struct {
	List    circuitsListCmd    `cmd:"" default:"withargs" help:"Show all circuits (the default)."`
	Open    circuitsOpenCmd    `cmd:"" help:"Force a circuit open: calls fail at once or fall back."`
	Close   circuitsCloseCmd   `cmd:"" help:"Force a circuit closed: errors do not open it."`
	Release circuitsReleaseCmd `cmd:"" help:"End the forced state of a circuit."`
}

// Help is what `bijou circuits --help` prints before the flags.
func (circuitsCmd) Help() string {
	return `For example:

    bijou circuits --watch
    bijou circuits open recommendations --for 5m --reason "game day"
    bijou circuits release recommendations --reason "over"`
}

type circuitsListCmd struct {
	Service string `arg:"" optional:"" help:"Only the circuits of this calling service."`
	Watch   bool   `short:"w" help:"Show each change until Ctrl-C."`
}

// circuitNames returns the names of all circuits, and of the callees that they protect.
func circuitNames(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel() // ends the stream
	stream, err := circuitsv1.NewCircuitsClient(conn).Watch(ctx, &circuitsv1.WatchRequest{})
	if err != nil {
		return nil, errs.FromRPC(err)
	}
	state, err := stream.Recv()
	if err != nil {
		return nil, errs.FromRPC(err)
	}
	var names []string
	for _, s := range state.GetServices() {
		for _, c := range s.GetCircuits() {
			names = append(names, c.GetName(), c.GetGroup())
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Run is `bijou circuits`.
func (c *circuitsListCmd) Run(ctx context.Context, e *env) error {
	conn, err := e.dial(ctx, "circuits")
	if err != nil {
		return err
	}
	defer conn.Close()
	if !c.Watch {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	stream, err := circuitsv1.NewCircuitsClient(conn).Watch(ctx, &circuitsv1.WatchRequest{Service: c.Service})
	if err != nil {
		return errs.FromRPC(err)
	}
	for {
		state, err := stream.Recv()
		switch {
		case c.Watch && (ctx.Err() != nil || errors.Is(err, io.EOF)):
			return nil
		case errors.Is(err, io.EOF):
			return errs.Errorf(errs.Unavailable, "circuits ended the stream before it sent anything")
		case err != nil:
			return errs.FromRPC(err)
		}
		if err := e.print(state, func() error { return c.show(e, state) }); err != nil || !c.Watch {
			return err
		}
	}
}

func (c *circuitsListCmd) show(e *env, state *circuitsv1.WatchResponse) error {
	if isTerm, _ := term.Size(e.Stdout); c.Watch && isTerm {
		fmt.Fprint(e.Stdout, "\x1b[H\x1b[2J") // from the top of an empty screen
	}
	t := term.Table{Header: []string{
		"CALLER", "CIRCUIT", "STATE", "REQUESTS", "ERRORS", "REJECTED", "FALLBACK",
		"BUSY/PEAK", "P50", "P99", "HOSTS", "REASON",
	}}
	for _, s := range state.GetServices() {
		for _, k := range s.GetCircuits() {
			r := k.GetRolling()
			p50, p99 := "measuring", ""
			if f := k.GetFigures(); f != nil {
				p50, p99 = percentile(f.P50Ms), percentile(f.P99Ms)
			}
			t.Add(e.style.Name(s.GetService(), s.GetService()), k.GetName(), e.circuitState(k.GetState()),
				strconv.FormatInt(k.GetRequests(), 10), fmt.Sprintf("%d%%", k.GetErrorPercentage()),
				strconv.FormatInt(r["SHORT_CIRCUITED"]+r["SEMAPHORE_REJECTED"], 10),
				strconv.FormatInt(r["FALLBACK_SUCCESS"], 10),
				fmt.Sprintf("%d/%d", k.GetConcurrent(), k.GetMaxConcurrent()),
				p50, p99, strconv.Itoa(int(k.GetReportingHosts())), k.GetReason())
		}
	}
	if len(t.Rows) == 0 {
		return e.printf("no circuits yet: each appears with its first call\n")
	}
	return e.table(&t)
}

func millis(ms float64) string {
	return time.Duration(ms * float64(time.Millisecond)).Round(100 * time.Microsecond).String()
}

func (e *env) circuitState(state circuitsv1.State) term.Painted {
	text := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(state.String(), "STATE_")), "_", " ")
	switch state {
	case circuitsv1.State_STATE_CLOSED:
		return e.style.Green(text)
	case circuitsv1.State_STATE_OPEN, circuitsv1.State_STATE_FORCED_OPEN:
		return e.style.Red(text)
	default:
		return e.style.Yellow(text)
	}
}

// forceFlags are the arguments and flags of circuits open, close and release.
type forceFlags struct {
	Name   string `arg:"" help:"A circuit, catalog.GetMovie, or a callee with all its methods, catalog."`
	Caller string `placeholder:"SERVICE" help:"Only for this calling service (default: every caller)."`
	Reason string `help:"Why. Required."`
	Author string `help:"Who (default: your user name)."`
}

type circuitsOpenCmd struct {
	forceFlags
	For time.Duration `default:"10m" help:"Release it after this time."`
}

// Validate refuses a negative --for.
func (c *circuitsOpenCmd) Validate() error { return notNegative("--for", c.For) }

// Run is `bijou circuits open`.
func (c *circuitsOpenCmd) Run(ctx context.Context, e *env) error {
	return c.force(ctx, e, circuitsv1.State_STATE_FORCED_OPEN, c.For)
}

type circuitsCloseCmd struct {
	forceFlags
	For time.Duration `default:"10m" help:"Release it after this time."`
}

// Validate refuses a negative --for.
func (c *circuitsCloseCmd) Validate() error { return notNegative("--for", c.For) }

// Run is `bijou circuits close`.
func (c *circuitsCloseCmd) Run(ctx context.Context, e *env) error {
	return c.force(ctx, e, circuitsv1.State_STATE_FORCED_CLOSED, c.For)
}

type circuitsReleaseCmd struct{ forceFlags }

// Run is `bijou circuits release`.
func (c *circuitsReleaseCmd) Run(ctx context.Context, e *env) error {
	return c.force(ctx, e, circuitsv1.State_STATE_UNSPECIFIED, 0)
}

func (f *forceFlags) force(ctx context.Context, e *env, state circuitsv1.State, ttl time.Duration) error {
	if err := checkReason(f.Reason); err != nil {
		return err
	}
	conn, err := e.dial(ctx, "circuits")
	if err != nil {
		return err
	}
	defer conn.Close()
	if names, err := circuitNames(ctx, conn); err == nil && state != circuitsv1.State_STATE_UNSPECIFIED &&
		!slices.Contains(names, f.Name) {
		e.notef("%s\n", e.style.Yellow(fmt.Sprintf("no circuit has the name %q yet: the order applies when one appears",
			f.Name)))
	}
	author := publishFlags{Author: f.Author}
	question := &circuitsv1.ForceRequest{
		Service: f.Caller, Name: f.Name, State: state, Author: author.author(e),
		Reason: f.Reason,
	}
	if ttl > 0 {
		question.Ttl = durationpb.New(ttl)
	}
	answer, err := ask(ctx, circuitsv1.NewCircuitsClient(conn).Force, question)
	if err != nil {
		return err
	}
	return e.print(answer, func() error {
		return e.printf("%s: settings revision %d\n", f.Name, answer.GetRevision())
	})
}
