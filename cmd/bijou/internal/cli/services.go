package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"bijou.dev/cmd/bijou/internal/term"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
)

type servicesCmd struct {
	Service string `arg:"" optional:"" help:"Only the instances of this service."`
}

// Help is what `bijou services --help` says beyond the flags.
func (servicesCmd) Help() string {
	return `    bijou services
    bijou services catalog --json`
}

// Run is `bijou services`.
func (c *servicesCmd) Run(ctx context.Context, e *env) error {
	seeds, err := e.addresses(ctx, "discovery", "grpc", grpcPort)
	if len(e.program.Discovery) > 0 {
		seeds, err = e.program.Discovery, nil
	}
	if err != nil {
		return err
	}
	list, err := e.list(ctx, seeds, c.Service)
	if err != nil {
		return err
	}
	if len(list.GetInstances()) == 0 && c.Service != "" {
		return errs.Errorf(errs.NotFound, "the registry knows no instance of %q; `bijou services` lists what it knows", c.Service)
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
		t.Add(e.style.Name(i.GetService(), i.GetService()), i.GetId(), e.instanceStatus(i), i.GetZone(), i.GetVersion(), since, strings.Join(listeners, " "))
	}
	if err := t.Write(e.Stdout, e.style); err != nil {
		return err
	}
	if p := list.GetSelfPreservation(); p.GetActive() {
		fmt.Fprintln(e.Stderr, e.style.Yellow("nobody is evicted at the moment: "+p.GetReason()))
	}
	if problem := list.GetStoreProblem(); problem != "" {
		fmt.Fprintln(e.Stderr, e.style.Yellow("the registry works from memory: "+problem))
	}
	return nil
}

func (e *env) instanceStatus(i *discoveryv1.Instance) string {
	text := strings.TrimPrefix(i.GetStatus().String(), "STATUS_")
	switch i.GetStatus() {
	case discoveryv1.Status_STATUS_UP:
		text = e.style.Green(text)
	case discoveryv1.Status_STATUS_STARTING, discoveryv1.Status_STATUS_DRAINING:
		text = e.style.Yellow(text)
	default:
		text = e.style.Red(text)
	}
	if i.GetSuspect() {
		text += " (suspect)"
	}
	if why := i.GetOverrideReason(); why != "" {
		text += " (" + why + ")"
	}
	return text
}
