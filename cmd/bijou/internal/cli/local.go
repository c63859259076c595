package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"bijou.dev/cmd/bijou/internal/term"
	"bijou.dev/cmd/bijou/stack"
)

type downCmd struct{}

// Run is `bijou down`.
func (downCmd) Run(ctx context.Context, e *env) error {
	remote, err := e.attach()
	if err != nil {
		return err
	}
	return remote.Down(ctx)
}

type statusCmd struct{}

// Help is what `bijou status --help` prints before the flags.
func (statusCmd) Help() string {
	return `Exits with 1 when an instance is not healthy.

    bijou status --json | jq -r '.instances[] | select(.phase != "healthy") | .name'`
}

// Run is `bijou status`.
func (statusCmd) Run(ctx context.Context, e *env) error {
	remote, err := e.attach()
	if err != nil {
		return err
	}
	run, err := remote.Run(ctx)
	if err != nil {
		return err
	}
	if e.program.JSON {
		if err := e.printJSON(run); err != nil {
			return err
		}
	} else if err := e.printStatus(run); err != nil {
		return err
	}
	return notHealthy(run)
}

// adminPort and grpcPort are the ports of a process in compose.yaml for its admin page and for gRPC.
const (
	adminPort = 9090
	grpcPort  = 7000
)

func (e *env) printStatus(run *stack.Run) error {
	t := term.Table{Header: []string{"INSTANCE", "HEALTH", "PID", "UP", "RESTARTS", "MEMORY", "ADMIN", "PROBLEM"}}
	var memory int64
	for _, i := range run.Instances {
		memory += i.Memory
		up, pid, size, admin := "", "", "", i.Ports[adminPort]
		if i.PID != 0 {
			up, pid, size = time.Since(i.Started).Round(time.Second).String(), strconv.Itoa(i.PID), term.Bytes(i.Memory)
		}
		if admin != "" {
			admin = "http://" + admin
		}
		t.Add(e.style.Name(i.Service, i.Name), e.phase(i), pid, up, strconv.Itoa(i.Restarts), size, admin, i.Problem)
	}
	if err := e.table(&t); err != nil {
		return err
	}
	err := e.printf("\n%d instances, %s of memory, running since %s\n", len(run.Instances), term.Bytes(memory),
		run.Started.Local().Format(time.DateTime))
	return err
}

func (e *env) phase(i stack.Instance) term.Painted {
	switch {
	case i.IsGood():
		return e.style.Green(i.Phase)
	case i.Phase == "unhealthy" || i.Phase == "held" || i.Phase == "exited":
		return e.style.Red(i.Phase)
	default:
		return e.style.Yellow(i.Phase)
	}
}

func notHealthy(run *stack.Run) error {
	var names []string
	for _, i := range run.Instances {
		if !i.IsGood() {
			names = append(names, i.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("not healthy: %s", strings.Join(names, ", "))
}

type logsCmd struct {
	Instances []string `arg:"" optional:"" help:"Instances or services; all if none is named."`
	Follow    bool     `short:"f" help:"Show new lines until Ctrl-C."`
	Tail      int      `short:"n" default:"100" help:"The last lines only; 0 for all."`
	Raw       bool     `help:"Show lines as they were written."`
}

// Help is what `bijou logs --help` prints before the flags.
func (logsCmd) Help() string {
	return `For example:

    bijou logs -f gateway         the last lines of the gateway, and then each new one
    bijou logs -n 0 catalog-a-1   all lines of one instance

The files are in .bijou/logs until the next "bijou up".`
}

// Run is `bijou logs`.
func (c *logsCmd) Run(ctx context.Context, e *env) error {
	dir, err := e.dir()
	if err != nil {
		return err
	}
	show := e.logLine(c.Raw)
	if c.Follow {
		return stack.FollowLogs(ctx, dir, c.Tail, show, c.Instances...)
	}
	lines, err := stack.ReadLogs(dir, c.Tail, c.Instances...)
	for _, line := range lines {
		show(line)
	}
	return err
}

func (e *env) logLine(raw bool) func(stack.Line) {
	longest := 0
	return func(l stack.Line) {
		if e.program.JSON {
			_ = json.NewEncoder(e.Stdout).Encode(l) // one line each
			return
		}
		longest = max(longest, len(l.Instance))
		writeLine(e.Stdout, e.style, longest, raw, l)
	}
}

type killCmd struct {
	Instance string `arg:"" help:"The instance: catalog-a-1."`
	Hold     bool   `help:"Keep it down until \"bijou restart\"."`
}

// Help is what `bijou kill --help` prints before the flags.
func (killCmd) Help() string {
	return `The restart policy in compose.yaml decides whether it starts again. --hold keeps it down.

    bijou kill catalog-a-1
    bijou kill --hold recommendations-a-1`
}

// Run is `bijou kill`.
func (c *killCmd) Run(ctx context.Context, e *env) error {
	remote, err := e.attach()
	if err != nil {
		return err
	}
	order, then := remote.Kill, "its restart policy decides whether it starts again"
	if c.Hold {
		order, then = remote.Hold, fmt.Sprintf("`bijou restart %s` starts it again", c.Instance)
	}
	if err := order(ctx, c.Instance); err != nil {
		return err
	}
	e.notef("killed %s; %s\n", c.Instance, then)
	return nil
}

type restartCmd struct {
	Instance string `arg:"" help:"The instance: catalog-a-1."`
}

// Run is `bijou restart`.
func (c *restartCmd) Run(ctx context.Context, e *env) error {
	remote, err := e.attach()
	if err != nil {
		return err
	}
	if err := remote.Restart(ctx, c.Instance); err != nil {
		return err
	}
	e.notef("restarted %s\n", c.Instance)
	return nil
}

// running returns the record of the stack that runs here.
func (e *env) running(ctx context.Context) (*stack.Run, error) {
	remote, err := e.attach()
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w (%w); for another platform pass --discovery", stack.ErrNotRunning, err)
	} else if err != nil {
		return nil, err
	}
	return remote.Run(ctx)
}
