package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"bijou.dev/platform/discovery"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// check is one line of /readyz.
type check struct {
	name   string
	needed bool // a failure makes the process not ready; otherwise it is only shown
	fn     func() error
}

// parts returns the checks that every process has. None makes the process unready: while the control plane is down, a
// process serves with what it knows, and an unready process would turn that outage into one of the product.
func (p *Process) parts() []check {
	return []check{
		{name: "registered", fn: func() error {
			if ok, reason := p.registry.registered(); !ok {
				return errors.New(reason)
			}
			return nil
		}},
		{name: "discovery", fn: p.discovery.Synced},
		{name: "settings", fn: func() error {
			if ok, since := p.config.Connected(); !ok {
				return fmt.Errorf("not connected to config since %s, using revision %d",
					since.Format(time.RFC3339), p.config.Revision())
			}
			return nil
		}},
	}
}

// notReady returns the errors of the needed checks that fail, or nil.
func (p *Process) notReady() error {
	var all []string
	for _, c := range p.checks {
		if !c.needed {
			continue
		}
		if err := c.fn(); err != nil {
			all = append(all, c.name+": "+err.Error())
		}
	}
	if len(all) == 0 {
		return nil
	}
	return errors.New(strings.Join(all, "; "))
}

// checkHealth asks the process that runs with the same options on this machine for /readyz.
func checkHealth(ctx context.Context, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(o.Listen["admin"])
	if err != nil {
		return errors.New("checking health: there is no listener \"admin\" in -listen")
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	url := "http://" + net.JoinHostPort(host, port) + "/readyz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("checking health: %w", err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: o.Net.DialContext, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("checking health: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("checking health: %s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// readinessEvery is how often the readiness checks run.
const readinessEvery = 250 * time.Millisecond

// watchReadiness turns the checks into the status that callers see.
func (p *Process) watchReadiness(ctx context.Context) error {
	tick := time.NewTicker(readinessEvery)
	defer tick.Stop()
	up := false
	for {
		problem := p.notReady()
		switch {
		case p.draining.Load():
			return nil
		case problem == nil && !up:
			up = true
			p.registry.setStatus(discovery.Up)
			p.health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
			p.log.Info("ready")
		case problem != nil && up:
			up = false
			p.registry.setStatus(discovery.Down)
			p.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
			p.log.Warn("not ready", "error", problem.Error())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
