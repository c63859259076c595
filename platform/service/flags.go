package service

import (
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"bijou.dev/platform/trace"
)

// Flags is the command line of a service. Every flag is also an environment variable: -etcd-endpoints is
// BIJOU_ETCD_ENDPOINTS. A flag wins over its variable, which wins over the default.
type Flags struct {
	*flag.FlagSet
}

// List defines a flag that holds comma separated values.
func (f *Flags) List(p *[]string, name, usage string) {
	f.Func(name, usage+" (comma separated)", func(s string) error {
		*p = splitList(s)
		return nil
	})
}

func splitList(s string) []string {
	var list []string
	for v := range strings.SplitSeq(s, ",") {
		if v = strings.TrimSpace(v); v != "" {
			list = append(list, v)
		}
	}
	return list
}

// envName returns the environment variable of a flag.
func envName(flag string) string {
	return "BIJOU_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// parse fills Options from the arguments and the environment. own declares the service's own flags; nil: there are
// none. crash becomes Options.Crash where -allow-kill is given.
func parse(crash func(), name string, args []string, w World, own func(*Flags)) (Options, error) {
	o := Options{Name: name, Drain: 10 * time.Second}
	level, allowKill := slog.LevelInfo, new(bool)
	f := &Flags{flag.NewFlagSet(name, flag.ContinueOnError)}
	f.SetOutput(w.Stderr)
	f.StringVar(&o.Name, "name", name, "register as this service")
	f.StringVar(&o.Instance, "instance", "", "id of this instance, stable over restarts (default: name and host name)")
	f.StringVar(&o.Version, "version", "", "version to register (default: the one built in)")
	f.StringVar(&o.Environment, "environment", "local", "environment of this process")
	f.StringVar(&o.Region, "region", "local", "region of this process")
	f.StringVar(&o.Zone, "zone", "a", "zone of this process")
	f.List(&o.Discovery, "discovery", "addresses of the registry, host:port")
	f.Func("listen", "listeners as name=address (comma separated; default grpc=:7000,admin=:9090)",
		func(s string) error {
			o.Listen = map[string]string{}
			for _, l := range splitList(s) {
				n, addr, ok := strings.Cut(l, "=")
				if !ok {
					return fmt.Errorf("%q must be name=address", l)
				}
				o.Listen[n] = addr
			}
			return nil
		})
	f.StringVar(&o.Advertise, "advertise", "",
		"host under which others reach this process, or the network in which its address is (default: found out)")
	f.StringVar(&o.StateDir, "state-dir", "", "folder for last-known-good settings and instances (default: none)")
	f.DurationVar(&o.Drain, "drain", o.Drain, "how long a stop waits for callers to know and for requests in progress")
	f.BoolVar(allowKill, "allow-kill", false, "serve POST /kill on the admin listener, for game days")
	f.TextVar(&level, "log-level", level, "debug, info, warn or error")
	if own != nil {
		own(f)
	}
	if err := f.fromEnv(w.Getenv); err != nil {
		return o, err
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; -h lists the flags", f.Arg(0))
	}
	if *allowKill {
		o.Crash = crash
	}
	handler := trace.Handler(slog.NewJSONHandler(w.Stdout, &slog.HandlerOptions{Level: level}))
	o.Log = slog.New(handler).With("service", o.Name)
	return o, nil
}

// fromEnv sets flags from the environment, before the command line is read.
func (f *Flags) fromEnv(env func(string) string) (err error) {
	f.VisitAll(func(fl *flag.Flag) {
		v := env(envName(fl.Name))
		if v == "" || err != nil {
			return
		}
		if e := f.Set(fl.Name, v); e != nil {
			err = fmt.Errorf("reading %s=%q: %w", envName(fl.Name), v, e)
		}
	})
	return err
}
