package compose

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
)

// The defaults of Docker Compose.
const (
	defaultGrace    = 10 * time.Second
	defaultInterval = 30 * time.Second
	defaultTimeout  = 30 * time.Second
	defaultRetries  = 3
)

func (pl *planner) process(service types.ServiceConfig, n int) (Process, error) {
	name := instanceName(service.Name, n)
	main, err := mainPackage(service)
	if err != nil {
		return Process{}, err
	}
	health, err := healthOf(service.HealthCheck)
	if err != nil {
		return Process{}, err
	}
	restart, err := restartOf(service.Restart)
	if err != nil {
		return Process{}, err
	}
	folders := pl.folders(service, name)
	w := rewriter{planner: pl, service: service.Name, instance: name, folders: folders}
	args, err := w.args(service.Command)
	if err != nil {
		return Process{}, err
	}
	env, err := w.env(service.Environment)
	if err != nil {
		return Process{}, err
	}
	return Process{
		Name: name, Service: service.Name, Main: main, Args: args, Env: env,
		Ports:   pl.ports[name],
		Folders: slices.Collect(maps.Values(folders)),
		Restart: restart,
		Grace:   durationOf(service.StopGracePeriod, defaultGrace),
		Health:  health,
		Level:   pl.level(service.Name, nil),
	}, nil
}

// mainPackage returns build.args.SERVICE, which deploy/Dockerfile uses, too.
func mainPackage(service types.ServiceConfig) (string, error) {
	if service.Build == nil || service.Build.Args["SERVICE"] == nil {
		return "", errors.New("no build.args.SERVICE names a main package below services/ to build; " +
			"it can only run as a container")
	}
	if len(service.Entrypoint) > 0 {
		return "", fmt.Errorf("entrypoint %v: a process always runs %s", service.Entrypoint, Binary)
	}
	main := filepath.ToSlash(filepath.Clean(*service.Build.Args["SERVICE"]))
	if !filepath.IsLocal(main) || main == "." {
		return "", fmt.Errorf("build.args.SERVICE %q must be the path of a main package below services/", main)
	}
	return main, nil
}

func healthOf(check *types.HealthCheckConfig) (*Health, error) {
	if check == nil || check.Disable || len(check.Test) == 0 || check.Test[0] == "NONE" {
		return nil, nil
	}
	if len(check.Test) < 2 || check.Test[0] != "CMD" || check.Test[1] != Binary {
		return nil, fmt.Errorf("healthcheck.test %v: must be [CMD, %s, ...], which works in an image without a shell",
			check.Test, Binary)
	}
	health := &Health{
		Args:        check.Test[2:],
		Interval:    durationOf(check.Interval, defaultInterval),
		Timeout:     durationOf(check.Timeout, defaultTimeout),
		StartPeriod: durationOf(check.StartPeriod, 0),
		Retries:     defaultRetries,
	}
	if check.Retries != nil {
		health.Retries = int(*check.Retries)
	}
	return health, nil
}

func durationOf(d *types.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return time.Duration(*d)
}

// restartOf reads "no", "always", "unless-stopped", "on-failure" and "on-failure:3".
func restartOf(policy string) (Restart, error) {
	kind, limit, limited := strings.Cut(policy, ":")
	r := Restart{}
	if limited {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 0 || kind != types.RestartPolicyOnFailure {
			return Restart{}, fmt.Errorf("restart %q: only on-failure takes a number of attempts", policy)
		}
		r.Max = n
	}
	switch kind {
	case "", types.RestartPolicyNo:
	case types.RestartPolicyAlways, types.RestartPolicyUnlessStopped:
		r.Always = true
	case types.RestartPolicyOnFailure:
		r.OnFailure = true
	default:
		return Restart{}, fmt.Errorf("restart %q: must be no, always, unless-stopped or on-failure[:n]", policy)
	}
	return r, nil
}

// folders maps the path of each volume in the container to its folder here. Named volumes are shared by name, as in
// compose; a volume without a name belongs to one instance.
func (pl *planner) folders(service types.ServiceConfig, instance string) map[string]Folder {
	folders := map[string]Folder{}
	for _, v := range service.Volumes {
		switch {
		case v.Type == types.VolumeTypeBind:
			folders[v.Target] = Folder{Path: v.Source}
		case v.Type == types.VolumeTypeTmpfs:
			folders[v.Target] = Folder{Path: pl.ownFolder(instance, v.Target), Fresh: true}
		case v.Source != "":
			folders[v.Target] = Folder{Path: filepath.Join(pl.opts.Dir, v.Source)}
		default:
			folders[v.Target] = Folder{Path: pl.ownFolder(instance, v.Target)}
		}
	}
	for _, t := range service.Tmpfs {
		target, _, _ := strings.Cut(t, ":")
		folders[target] = Folder{Path: pl.ownFolder(instance, target), Fresh: true}
	}
	return folders
}

func (pl *planner) ownFolder(instance, target string) string {
	return filepath.Join(pl.opts.Dir, instance, strings.ReplaceAll(strings.Trim(target, "/"), "/", "-"))
}

// level is the length of the longest chain of dependencies of a service. seen has the services above it, so that a
// cycle ends.
func (pl *planner) level(service string, seen []string) int {
	level := 0
	if slices.Contains(seen, service) {
		return level
	}
	for _, dep := range pl.project.Services[service].GetDependencies() {
		if _, ok := pl.project.Services[dep]; ok {
			level = max(level, 1+pl.level(dep, append(seen, service)))
		}
	}
	return level
}

// assignPublished gives the instances of a service their published ports. It must run before other ports are assigned,
// which could take these numbers. The first instance gets a single port; of a range, such as 8090-8091, each instance
// gets one, until the range is used up.
func (pl *planner) assignPublished(service types.ServiceConfig) error {
	for _, port := range service.Ports {
		first, last, err := PortRange(port.Published)
		if err != nil {
			return fmt.Errorf("service %s: published port %q: %w", service.Name, port.Published, err)
		}
		pl.listen(service.Name, int(port.Target))
		for n := range min(service.GetScale(), last-first+1) {
			wanted, instance := first+n, instanceName(service.Name, n+1)
			addr, err := pl.addr(service.Name, instance, int(port.Target), wanted)
			if err != nil {
				return err
			}
			pl.plan.Published = append(pl.plan.Published, publishedPort(service.Name, instance, port, wanted, addr))
		}
	}
	return nil
}

// PortRange reads the published side of a port: "8080", "8090-8091", or "", which is port 0: any.
func PortRange(published string) (first, last int, err error) {
	if published == "" {
		return 0, 0, nil
	}
	from, to, isRange := strings.Cut(published, "-")
	if !isRange {
		to = from
	}
	first, err = strconv.Atoi(from)
	last, toErr := strconv.Atoi(to)
	if err = errors.Join(err, toErr); err != nil || first < 1 || last > 65535 || first > last {
		return 0, 0, errors.New("must be a number from 1 to 65535, or a range such as 8090-8091")
	}
	return first, last, nil
}

func publishedPort(service, instance string, port types.ServicePortConfig, wanted int, addr string) Published {
	p := Published{
		Service: service, Instance: instance, Name: port.Name, Protocol: port.AppProtocol,
		Target: int(port.Target), Wanted: wanted,
	}
	if p.Name == "" {
		p.Name = fmt.Sprintf("%s:%d", service, port.Target)
	}
	if p.Protocol == "" {
		p.Protocol = "tcp"
	}
	p.Got, _ = strconv.Atoi(addr[strings.LastIndexByte(addr, ':')+1:])
	return p
}

func (pl *planner) listen(service string, port int) {
	if pl.listens[service] == nil {
		pl.listens[service] = map[int]bool{}
	}
	pl.listens[service][port] = true
}

// addr returns the address of a port of an instance, and assigns it at the first call.
func (pl *planner) addr(service, instance string, port, wanted int) (string, error) {
	if addr, ok := pl.ports[instance][port]; ok {
		return addr, nil
	}
	got, err := pl.opts.Port(wanted)
	if err != nil {
		return "", fmt.Errorf("service %s: finding a free port for %s:%d: %w", service, instance, port, err)
	}
	if pl.ports[instance] == nil {
		pl.ports[instance] = map[int]string{}
	}
	pl.ports[instance][port] = "127.0.0.1:" + strconv.Itoa(got)
	return pl.ports[instance][port], nil
}

// checkReferences returns an error for an address of a service on a port where it does not listen.
func (pl *planner) checkReferences() error {
	for _, ref := range pl.refs {
		ports := pl.listens[ref.to]
		if !ports[ref.port] {
			return fmt.Errorf("service %s: %s refers to %s:%d, but %s listens only on %v", ref.from, ref.setting,
				ref.to, ref.port, ref.to, slices.Sorted(maps.Keys(ports)))
		}
	}
	return nil
}
