package service

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
)

// Options is what the outside world decides about a process. [Main] fills it from flags and environment.
type Options struct {
	// Name is the service: "catalog". It follows names.Service. Required.
	Name string
	// Instance is the id of this process, stable over its restarts and unique within the service. It follows names.ID.
	// Empty: the name and the host name, which in a container is the container's id.
	Instance string
	// Version is the version of the code. It follows names.ID. Empty: what the build stamped, else "dev".
	Version string
	// Environment, Region and Zone say where the process runs. They follow names.ID. Empty: "local", "local" and "a".
	Environment, Region, Zone string
	// Discovery lists the registry's addresses, host:port. Empty: there is no registry. Then the process is not
	// registered and finds only the instances in Known.
	Discovery []string
	// Known has the instances that are found when there is no registry. Nil: none. Must be nil when Discovery is set.
	Known *discovery.Static
	// Listen maps a listener's name to the address it binds. Empty: grpc=:7000 and admin=:9090.
	Listen map[string]string
	// Advertise is the host under which others reach the listeners: a name, an address, or a network in CIDR notation,
	// which stands for this machine's address in it. A name that stands for one of this machine's own addresses becomes
	// that address when the process starts: on a machine in several networks, a name that is known in one of them
	// chooses the address. Empty: the host that a listener is bound to, or for wildcard addresses this machine's first
	// address that is not a loopback.
	Advertise string
	// StateDir is where last-known-good settings and instances are kept for the next start. Empty: they are not kept.
	StateDir string
	// Drain bounds how long a stop waits for callers to learn about it and for requests in progress. Zero: 10 s.
	Drain time.Duration
	// Crash ends the process at once, without a drain. POST /kill on the admin listener calls it; see docs/adr. Main
	// sets it where -allow-kill is given. Nil: there is no such page.
	Crash func()
	// Log gets the process's log lines. Nil: nothing is logged.
	Log *slog.Logger
	// Net is the network. Zero: the machine's.
	Net Net
}

// Net is how a process reaches the network. Nil functions are those of package net, except for LookupHost.
type Net struct {
	// Listen binds an address.
	Listen func(network, address string) (net.Listener, error)
	// DialContext connects to an address.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// LookupHost returns the addresses of a host name, for Options.Advertise. Nil: the machine's resolver, or no
	// resolver at all when DialContext is set: another network has other names, so names are advertised as they are.
	LookupHost func(ctx context.Context, host string) ([]string, error)
}

// complete returns a copy with all defaults, or an error that names the fields that are wrong.
func (o Options) complete() (Options, error) {
	if o.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("naming the instance after its host: %w; set Instance", err)
		}
		o.Instance = o.Name + "-" + host
	}
	o.Version = cmp.Or(o.Version, Version())
	o.Environment = cmp.Or(o.Environment, "local")
	o.Region = cmp.Or(o.Region, "local")
	o.Zone = cmp.Or(o.Zone, "a")
	if o.Known == nil && len(o.Discovery) == 0 {
		o.Known = discovery.NewStatic(nil)
	}
	o.Listen = maps.Clone(o.Listen)
	if len(o.Listen) == 0 {
		o.Listen = map[string]string{grpcListener: ":7000", adminListener: ":9090"}
	}
	o.Drain = cmp.Or(o.Drain, 10*time.Second)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.Net = o.Net.complete()
	return o, o.validate()
}

func (n Net) complete() Net {
	if n.LookupHost == nil && n.DialContext == nil {
		n.LookupHost = net.DefaultResolver.LookupHost
	}
	if n.Listen == nil {
		n.Listen = net.Listen
	}
	if n.DialContext == nil {
		n.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	return n
}

func (o Options) validate() error {
	var bad errs.Violations
	name := func(field, value string, rule names.Rule) {
		if err := rule.Check(value); err != nil {
			bad.Add(field, err.Error())
		}
	}
	address := func(field, value string) {
		if _, _, err := net.SplitHostPort(value); err != nil {
			bad.Addf(field, "must be host:port, is %q", value)
		}
	}
	name("Name", o.Name, names.Service)
	name("Instance", o.Instance, names.ID)
	name("Environment", o.Environment, names.ID)
	name("Region", o.Region, names.ID)
	name("Zone", o.Zone, names.ID)
	name("Version", o.Version, names.ID)
	for i, seed := range o.Discovery {
		address(fmt.Sprintf("Discovery[%d]", i), seed)
	}
	if o.Known != nil && len(o.Discovery) > 0 {
		bad.Add("Known", "must be nil when Discovery is set")
	}
	for _, listener := range slices.Sorted(maps.Keys(o.Listen)) {
		name("Listen."+listener, listener, names.Service)
		address("Listen."+listener, o.Listen[listener])
	}
	if strings.Contains(o.Advertise, "/") {
		if _, err := netip.ParsePrefix(o.Advertise); err != nil {
			bad.Addf("Advertise", "must be a host or a network like 10.1.0.0/16, is %q", o.Advertise)
		}
	}
	if o.Drain < 0 {
		bad.Addf("Drain", "must not be negative, is %v", o.Drain)
	}
	return bad.Err("options of service %q", o.Name)
}
