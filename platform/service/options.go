package service

import (
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

	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
)

// Options is what a process is told by the outside world. Main fills it from flags and environment.
type Options struct {
	// Name is the service: "catalog". Required; see names.Service.
	Name string
	// Instance is the id of this process, stable over its restarts and unique within the service; see names.ID. Empty:
	// the name and the host name, which in a container is the container's id.
	Instance string
	// Version is the version of the code. See names.ID. Empty: what the build stamped, else "dev".
	Version string
	// Environment, Region and Zone say where the process runs. See names.ID. Empty: "local", "local" and "a".
	Environment, Region, Zone string
	// Discovery lists the registry's addresses, host:port. Empty: the process runs alone and finds nobody.
	Discovery []string
	// Listen maps a listener's name to the address it binds. Empty: grpc=:7000 and admin=:9090.
	Listen map[string]string
	// Advertise is the host under which others reach the listeners. Empty: the host that a listener is bound to, or
	// for wildcard addresses this machine's first address that is not a loopback. A name that stands for one of this
	// machine's own addresses becomes that address when the process starts: on a machine in several networks, a name
	// known in one of them says which. A network in CIDR notation does the same where there is no such name.
	Advertise string
	// StateDir is where last-known-good settings and instances are kept for the next start. Empty: nowhere.
	StateDir string
	// Drain bounds how long a stop waits for callers to learn about it and for work in hand. Zero: 10 s.
	Drain time.Duration
	// Crash ends the process at once, without a drain. When it is set, POST /kill on the admin listener calls it; see
	// docs/adr. Nil: there is no such page. Main sets it where -allow-kill is given.
	Crash func()
	// Log receives what the process has to say. Nil: nothing.
	Log *slog.Logger
	// Net is the network. The zero value is the real one.
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

// complete returns a copy with every default in place, or says which field is wrong.
func (o Options) complete() (Options, error) {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	if o.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("naming the instance after its host: %w; set Instance", err)
		}
		o.Instance = o.Name + "-" + host
	}
	def(&o.Version, Version())
	def(&o.Environment, "local")
	def(&o.Region, "local")
	def(&o.Zone, "a")
	if len(o.Listen) == 0 {
		o.Listen = map[string]string{"grpc": ":7000", "admin": ":9090"}
	}
	o.Listen = maps.Clone(o.Listen)
	if o.Drain == 0 {
		o.Drain = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Net.Listen == nil {
		o.Net.Listen = net.Listen
	}
	if o.Net.LookupHost == nil && o.Net.DialContext == nil {
		o.Net.LookupHost = net.DefaultResolver.LookupHost
	}
	if o.Net.DialContext == nil {
		o.Net.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	return o, o.validate()
}

func (o Options) validate() error {
	err := errs.Errorf(errs.Invalid, "options of service %q", o.Name)
	if wrong := names.Service.Check(o.Name); wrong != nil {
		err.Field("Name", wrong.Error())
	}
	for _, f := range []struct{ name, value string }{
		{"Instance", o.Instance}, {"Environment", o.Environment}, {"Region", o.Region}, {"Zone", o.Zone}, {"Version", o.Version},
	} {
		if wrong := names.ID.Check(f.value); wrong != nil {
			err.Field(f.name, wrong.Error())
		}
	}
	for i, seed := range o.Discovery {
		if _, _, e := net.SplitHostPort(seed); e != nil {
			err.Field(fmt.Sprintf("Discovery[%d]", i), fmt.Sprintf("%q must be host:port", seed))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Listen)) {
		if wrong := names.Service.Check(name); wrong != nil {
			err.Field(fmt.Sprintf("Listen[%.40q]", name), "the name "+wrong.Error())
		} else if _, _, e := net.SplitHostPort(o.Listen[name]); e != nil {
			err.Field("Listen."+name, fmt.Sprintf("%q must be host:port", o.Listen[name]))
		}
	}
	if strings.Contains(o.Advertise, "/") {
		if _, e := netip.ParsePrefix(o.Advertise); e != nil {
			err.Field("Advertise", fmt.Sprintf("%q must be a host or a network like 10.1.0.0/16", o.Advertise))
		}
	}
	if o.Drain < 0 {
		err.Field("Drain", "must not be negative")
	}
	if len(err.Fields) > 0 {
		return err
	}
	return nil
}
