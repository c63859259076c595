package main

import (
	"fmt"
	"maps"
	"strconv"

	"github.com/compose-spec/compose-go/v2/types"
)

// subnet is the subnet of the network data. Swarm does not resolve the name of a container before it is healthy, not
// even in that container, so an instance finds its own address by the subnet.
const subnet = "10.78.0.0/16"

// aliasNetwork returns the network in which all instances share a name in compose.yaml.
func aliasNetwork(p *types.Project) string {
	for _, s := range p.Services {
		for name, n := range s.Networks {
			if n != nil && len(n.Aliases) > 0 {
				return name
			}
		}
	}
	return ""
}

// swarm returns the stack file: compose.yaml in the older format that `docker stack deploy` reads, with how to replace
// instances added.
func swarm(p *types.Project) ([]byte, error) {
	services, networks, volumes := object{}, object{}, object{}
	for name, s := range p.Services {
		one, err := swarmService(s)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
		services[name] = one
	}
	for name, n := range p.Networks {
		networks[name] = object{"driver": "overlay", "internal": n.Internal}
		if name == aliasNetwork(p) {
			networks[name] = object{
				"driver": "overlay", "internal": n.Internal,
				"ipam": object{"config": []any{object{"subnet": subnet}}},
			}
		}
	}
	for name := range p.Volumes {
		volumes[name] = object{}
	}
	return document("#\n#   docker stack deploy -c deploy/swarm/stack.yaml bijou\n#\n"+
		"# Ports are open on every address of the node that runs the service: Swarm cannot bind to 127.0.0.1.\n"+
		"# Volumes are local to a node: with several nodes, pin the services that have one.\n",
		object{"version": "3.13", "services": services, "networks": networks, "volumes": volumes})
}

func swarmService(s types.ServiceConfig) (object, error) {
	environment := object{}
	for key, value := range s.Environment {
		if value == nil {
			return nil, fmt.Errorf("environment: %s has no value in compose.yaml; a stack needs one", key)
		}
		environment[key] = *value
		if own := ownAlias(s); own != "" && *value == own {
			environment[key] = subnet
		}
	}
	networks := object{}
	for name := range s.Networks {
		networks[name] = object{}
	}
	var volumes []any
	for _, v := range s.Volumes {
		one := object{"type": v.Type, "target": v.Target}
		if name, ok := named(v); ok {
			one["source"] = name
		}
		volumes = append(volumes, one)
	}
	var ports []any
	for _, port := range s.Ports {
		published, err := strconv.Atoi(port.Published)
		if err != nil {
			return nil, fmt.Errorf("ports: %d is published as %q, which is not a number", port.Target, port.Published)
		}
		ports = append(ports, object{"target": port.Target, "published": published, "protocol": "tcp", "mode": "host"})
	}
	// Start the new instance first, unless two instances would share a volume or a port.
	order := "start-first"
	if hasState(s) || len(ports) > 0 {
		order = "stop-first"
	}
	limits := object{"memory": strconv.FormatInt(int64(s.MemLimit), 10), "pids": s.PidsLimit}
	restart := map[bool]string{true: "any", false: "none"}[s.Restart == types.RestartPolicyUnlessStopped]
	out := object{
		"image": s.Image, "environment": environment, "user": s.User, "read_only": s.ReadOnly, "cap_drop": s.CapDrop,
		"networks": networks, "volumes": volumes,
		"deploy": object{
			"replicas": s.GetScale(),
			// A name resolves to the addresses of the instances, as in compose.yaml, not to one virtual address.
			"endpoint_mode":  "dnsrr",
			"resources":      object{"limits": limits},
			"restart_policy": object{"condition": restart, "delay": "1s"},
			"update_config":  object{"parallelism": 1, "order": order, "failure_action": "rollback"},
		},
	}
	if len(ports) > 0 {
		out["ports"] = ports
	}
	if s.StopGracePeriod != nil {
		out["stop_grace_period"] = s.StopGracePeriod.String()
	}
	if s.Logging != nil {
		out["logging"] = object{"driver": s.Logging.Driver, "options": maps.Clone(s.Logging.Options)}
	}
	if h := s.HealthCheck; h != nil {
		check := object{"test": h.Test}
		for key, d := range map[string]*types.Duration{
			"interval": h.Interval, "timeout": h.Timeout,
			"start_period": h.StartPeriod,
		} {
			if d != nil {
				check[key] = d.String()
			}
		}
		if h.Retries != nil {
			check["retries"] = *h.Retries
		}
		out["healthcheck"] = check
	}
	return out, nil
}
