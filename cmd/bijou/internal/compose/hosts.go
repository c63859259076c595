package compose

import (
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// hostNames returns the names under which containers of the project find each other -> the services that have the name.
// Several services may share an alias; in a container the name then stands for all of them.
func hostNames(project *types.Project) map[string][]string {
	hosts := map[string][]string{}
	add := func(host, service string) {
		if host != "" && !slices.Contains(hosts[host], service) {
			hosts[host] = append(hosts[host], service)
		}
	}
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		add(name, name)
		add(service.ContainerName, name)
		add(service.Hostname, name)
		for _, network := range slices.Sorted(maps.Keys(service.Networks)) {
			if config := service.Networks[network]; config != nil {
				for _, alias := range config.Aliases {
					add(alias, name)
				}
			}
		}
	}
	return hosts
}

// servicesOf returns the services that a host name means in the settings of a service. A link of that service wins: it
// is a name that only this service knows.
func (pl *planner) servicesOf(from, host string) []string {
	for _, link := range pl.project.Services[from].Links {
		service, alias, ok := strings.Cut(link, ":")
		if ok && alias == host && pl.hosts[service] != nil {
			return []string{service}
		}
	}
	return pl.hosts[host]
}

// warnOfNames warns of the names and dependencies of a service that do not apply to processes of one machine.
func (pl *planner) warnOfNames(service types.ServiceConfig) {
	for _, name := range slices.Sorted(maps.Keys(service.DependsOn)) {
		if _, off := pl.project.DisabledServices[name]; off {
			pl.warn("service %s depends on %s, whose profile %s is off: it starts without it; COMPOSE_PROFILES turns "+
				"profiles on", service.Name, name, strings.Join(pl.project.DisabledServices[name].Profiles, " or "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(service.ExtraHosts)) {
		pl.warn("service %s: extra_hosts %s is not applied to processes: they resolve names as this machine does",
			service.Name, name)
	}
	for _, link := range service.ExternalLinks {
		pl.warn("service %s: external_links %s is not resolved: it names a container outside this file", service.Name,
			link)
	}
}
