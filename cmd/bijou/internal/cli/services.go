package cli

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"bijou.dev/cmd/bijou/internal/term"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
)

type servicesCmd struct {
	List servicesListCmd `cmd:"" default:"withargs" help:"List instances (the default)."`
	Show servicesShowCmd `cmd:"" help:"Show the report of an instance: checks, settings revision, memory."`
	Kill servicesKillCmd `cmd:"" help:"Kill an instance by its admin page, where it runs with -allow-kill."`
	Out  servicesOutCmd  `cmd:"" help:"Take an instance out of service: callers stop choosing it, it keeps running."`
	Back servicesBackCmd `cmd:"" help:"Put an instance back that was taken out."`
}

// Help is what `bijou services --help` prints before the flags.
func (servicesCmd) Help() string {
	return `For example:

    bijou services
    bijou services catalog --json
    bijou services show catalog-a-1
    bijou services kill catalog-a-1 --for 20s --reason "game day"
    bijou services out catalog-a-1 --reason "disk"
    bijou services back catalog-a-1 --reason "new disk"`
}

type servicesListCmd struct {
	Service string `arg:"" optional:"" help:"Only the instances of this service."`
}

// overrideFlags are the arguments and flags of services out, back and kill.
type overrideFlags struct {
	Instance string `arg:"" help:"The instance, as \"bijou services\" names it."`
	Reason   string `help:"Why. Required."`
	Author   string `help:"Who (default: your user name)."`
}

type servicesOutCmd struct{ overrideFlags }

// Run is `bijou services out`.
func (c *servicesOutCmd) Run(ctx context.Context, e *env) error {
	return c.set(ctx, e, discoveryv1.Status_STATUS_OUT_OF_SERVICE)
}

type servicesBackCmd struct{ overrideFlags }

// Run is `bijou services back`.
func (c *servicesBackCmd) Run(ctx context.Context, e *env) error {
	return c.set(ctx, e, discoveryv1.Status_STATUS_UNSPECIFIED)
}

func (c *overrideFlags) set(ctx context.Context, e *env, status discoveryv1.Status) error {
	if err := checkReason(c.Reason); err != nil {
		return err
	}
	seeds, err := e.registry(ctx)
	if err != nil {
		return err
	}
	conn, err := connect("discovery", seeds)
	if err != nil {
		return err
	}
	defer conn.Close()
	i, err := e.instance(ctx, c.Instance)
	if err != nil {
		return err
	}
	author := publishFlags{Author: c.Author}
	answer, err := ask(ctx, discoveryv1.NewDiscoveryClient(conn).SetOverride, &discoveryv1.SetOverrideRequest{
		Service: i.GetService(), Id: i.GetId(), Status: status, Author: author.author(e), Reason: c.Reason,
	})
	if err != nil {
		return err
	}
	return e.print(answer, func() error {
		return e.printf("%s is %s\n", c.Instance, e.instanceStatus(answer.GetInstance()))
	})
}

// instance asks the registry for one instance.
func (e *env) instance(ctx context.Context, id string) (*discoveryv1.Instance, error) {
	seeds, err := e.registry(ctx)
	if err != nil {
		return nil, err
	}
	list, err := e.list(ctx, seeds, "")
	if err != nil {
		return nil, err
	}
	for _, i := range list.GetInstances() {
		if i.GetId() == id {
			return i, nil
		}
	}
	return nil, errs.Errorf(errs.NotFound, "the registry has no instance %q", id)
}

// registry returns the addresses of the registry.
func (e *env) registry(ctx context.Context) ([]string, error) {
	if len(e.program.Discovery) > 0 {
		return e.program.Discovery, nil
	}
	return e.addresses(ctx, "discovery", "grpc", grpcPort)
}

// Run is `bijou services`.
func (c *servicesListCmd) Run(ctx context.Context, e *env) error {
	seeds, err := e.registry(ctx)
	if err != nil {
		return err
	}
	list, err := e.list(ctx, seeds, c.Service)
	if err != nil {
		return err
	}
	if len(list.GetInstances()) == 0 && c.Service != "" {
		return errs.Errorf(errs.NotFound, "the registry has no instance of %q; `bijou services` lists all services",
			c.Service)
	}
	return e.print(list, func() error { return e.printServices(list) })
}

func (e *env) printServices(list *discoveryv1.ListResponse) error {
	instances := list.GetInstances()
	slices.SortFunc(instances, func(a, b *discoveryv1.Instance) int {
		return cmp.Or(strings.Compare(a.GetService(), b.GetService()), strings.Compare(a.GetId(), b.GetId()))
	})
	t := term.Table{Header: []string{"SERVICE", "INSTANCE", "STATUS", "ZONE", "VERSION", "SINCE", "LISTENERS"}}
	for _, i := range instances {
		listeners := make([]string, 0, len(i.GetEndpoints()))
		for _, name := range slices.Sorted(maps.Keys(i.GetEndpoints())) {
			listeners = append(listeners, name+"="+i.GetEndpoints()[name])
		}
		since := ""
		if at := i.GetStatusSince(); at != nil {
			since = time.Since(at.AsTime()).Round(time.Second).String()
		}
		t.Add(e.style.Name(i.GetService(), i.GetService()), i.GetId(), e.instanceStatus(i), i.GetZone(), i.GetVersion(),
			since, strings.Join(listeners, " "))
	}
	if err := e.table(&t); err != nil {
		return err
	}
	if p := list.GetSelfPreservation(); p.GetActive() {
		e.notef("%s\n", e.style.Yellow("no instance is evicted at the moment: "+p.GetReason()))
	}
	if problem := list.GetStoreProblem(); problem != "" {
		e.notef("%s\n", e.style.Yellow("the registry works from memory: "+problem))
	}
	return nil
}

func (e *env) instanceStatus(i *discoveryv1.Instance) term.Painted {
	status := strings.TrimPrefix(i.GetStatus().String(), "STATUS_")
	var text term.Painted
	switch i.GetStatus() {
	case discoveryv1.Status_STATUS_UP:
		text = e.style.Green(status)
	case discoveryv1.Status_STATUS_STARTING, discoveryv1.Status_STATUS_DRAINING:
		text = e.style.Yellow(status)
	default:
		text = e.style.Red(status)
	}
	if i.GetSuspect() {
		text += " (suspect)"
	}
	if reason := i.GetOverrideReason(); reason != "" {
		text += term.Sprintf(" (%s)", reason)
	}
	return text
}
