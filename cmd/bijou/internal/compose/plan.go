package compose

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"bijou.dev/platform/names"
	"github.com/compose-spec/compose-go/v2/types"
)

// Binary is the entrypoint of every image: the one program in it.
const Binary = "/service"

// Plan is everything needed to run a project as processes.
type Plan struct {
	// Processes in the order of their start: dependencies first.
	Processes []Process
	// Published are the published ports, in the order of the services' names.
	Published []Published
	// Warnings has one sentence for each part of the file that does not apply to processes.
	Warnings []string
}

// Process is one instance of a service.
type Process struct {
	// Name is "<service>-<n>", n from 1.
	Name string
	// Service is the name in the compose file.
	Service string
	// Main is the main package: build.args.SERVICE, a path below services/.
	Main string
	// Args of the program, and its environment as sorted KEY=value pairs, with loopback addresses and local folders.
	Args, Env []string
	// Ports maps a port of the container to the host:port that this process has instead.
	Ports map[int]string
	// Folders that must exist before a start.
	Folders []Folder
	Restart Restart
	// Grace is how long a stop may take before the process is killed.
	Grace time.Duration
	// Health is nil when the service has no health check.
	Health *Health
	// Level is 0 for a process that depends on no other, otherwise one more than the highest it depends on.
	Level int
}

// Folder is a volume of a process.
type Folder struct {
	Path string
	// Fresh folders are emptied before each start: a tmpfs.
	Fresh bool
}

// Restart is the policy for a process that ends by itself.
type Restart struct {
	// Always restarts after any end, OnFailure after an exit code other than 0. Neither: never.
	Always, OnFailure bool
	// Max is the number of restarts in a row; 0 for no limit.
	Max int
}

// Health is the health check of a process.
type Health struct {
	// Args of the program that run the check: "healthcheck".
	Args                           []string
	Interval, Timeout, StartPeriod time.Duration
	Retries                        int
}

// Published is a published port.
type Published struct {
	Service  string
	Instance string
	// Name is the name of the port in the compose file, else "service:port".
	Name string
	// Protocol is "http" when the compose file says so in app_protocol, else "tcp".
	Protocol string
	// Target is the port of the container, Wanted the published number, Got the number in use.
	Target, Wanted, Got int
}

// Options of [NewPlan].
type Options struct {
	// Dir holds the volumes of the processes. Required.
	Dir string
	// Port returns a free port of this machine: wanted if it is free, any for 0. Required.
	Port func(wanted int) (int, error)
	// Env are further variables of every process; they win over those of the compose file. Nil: none.
	Env map[string]string
}

// NewPlan translates a project. It returns an error for what processes cannot do: a service without build.args.SERVICE,
// a health check in a shell, an address at which nothing listens.
func NewPlan(project *types.Project, opts Options) (*Plan, error) {
	pl := &planner{
		project: project, opts: opts,
		ports: map[string]map[int]string{}, listens: map[string]map[int]bool{}, hosts: hostNames(project),
	}
	services := project.ServiceNames()
	for _, name := range services {
		if err := names.Service.Check(name); err != nil {
			return nil, fmt.Errorf("service %q: its name %w", name, err)
		}
		if err := pl.assignPublished(project.Services[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range services {
		service := project.Services[name]
		pl.warnOfNames(service)
		for n := range service.GetScale() {
			p, err := pl.process(service, n+1)
			if err != nil {
				return nil, fmt.Errorf("service %s: %w", name, err)
			}
			pl.plan.Processes = append(pl.plan.Processes, p)
		}
	}
	if len(pl.plan.Processes) == 0 {
		return nil, errors.New("the compose file has no services to run")
	}
	if err := pl.checkReferences(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(pl.plan.Processes, func(a, b Process) int { return cmp.Compare(a.Level, b.Level) })
	return &pl.plan, nil
}

type planner struct {
	project *types.Project
	opts    Options
	plan    Plan
	// instance -> container port -> host:port
	ports map[string]map[int]string
	// service -> the container ports it listens on
	listens map[string]map[int]bool
	// host name -> the services that it stands for
	hosts map[string][]string
	refs  []reference
}

// warn keeps a warning once: the replicas of a service share their settings.
func (pl *planner) warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(pl.plan.Warnings, text) {
		pl.plan.Warnings = append(pl.plan.Warnings, text)
	}
}

// reference is an address of one service in the settings of another.
type reference struct {
	from, setting, to string
	port              int
}

func instanceName(service string, n int) string { return service + "-" + strconv.Itoa(n) }
