package service

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"runtime"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/route"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// adminHandler is the page every process serves on its admin listener, which is never routed by the edge.
func (p *Process) adminHandler(m *httpapi.Mux) http.Handler {
	started := time.Now()
	m.Handle("/healthz", httpapi.Get(func(*http.Request) (map[string]string, error) {
		return map[string]string{"status": "alive"}, nil
	}))
	m.HandleFunc("GET /readyz", p.serveReady)
	m.Handle("GET /metrics", promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{Registry: p.metrics}))
	m.Handle("/version", httpapi.Get(func(*http.Request) (map[string]string, error) {
		return map[string]string{
			"service": p.opts.Name, "instance": p.opts.Instance, "version": p.opts.Version, "build": Version(),
			"go": runtime.Version(), "environment": p.opts.Environment, "region": p.opts.Region, "zone": p.opts.Zone,
			"started": started.UTC().Format(time.RFC3339),
		}, nil
	}))
	m.Handle("/config", httpapi.Get(p.shownConfig))
	m.Handle("/circuits", p.circuits.Handler())
	m.Handle("GET /hystrix.stream", p.circuits.StreamHandler())
	m.Handle("/overload", p.overload.Handler())
	m.Handle("/instances", httpapi.Get(func(r *http.Request) ([]discovery.Instance, error) {
		return append([]discovery.Instance{}, p.discovery.Instances(r.URL.Query().Get("service"))...), nil // never null
	}))
	m.Handle("/balancers", httpapi.Get(func(*http.Request) (map[string][]route.EndpointState, error) {
		return p.client.Balancers(), nil
	}))
	if p.opts.Crash != nil {
		m.HandleFunc("POST /kill", p.serveKill)
	}
	m.HandleFunc("GET /debug/pprof/", pprof.Index)
	m.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	m.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	m.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	m.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, adminPage, p.opts.Name, p.opts.Instance, p.opts.Version, p.opts.Zone)
	})
	return m
}

// readyCheck is one line of /readyz as JSON.
type readyCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"`
	Reason string `json:"reason,omitempty"`
}

func (p *Process) serveReady(w http.ResponseWriter, r *http.Request) {
	answer := struct {
		Status string       `json:"status"`
		Checks []readyCheck `json:"checks"`
	}{Status: "ready"}
	for _, c := range append(p.parts(), p.checks...) {
		line := readyCheck{Name: c.name, OK: true, Needed: c.needed}
		if err := c.fn(); err != nil {
			line.OK, line.Reason = false, err.Error()
			if c.needed {
				answer.Status = "not ready"
			}
		}
		answer.Checks = append(answer.Checks, line)
	}
	if p.draining.Load() {
		answer.Status = "draining"
	}
	code := http.StatusOK
	if answer.Status != "ready" {
		code = http.StatusServiceUnavailable
	}
	httpapi.Write(w, r, code, answer)
}

func (p *Process) shownConfig(*http.Request) (map[string]any, error) {
	connected, since := p.config.Connected()
	return map[string]any{
		"revision": p.config.Revision(), "connected": connected, "since": since, "settings": p.config.Entries(),
	}, nil
}

// adminPage links the pages of the listener. Its four verbs are name, instance, version and zone, which follow
// names.Service and names.ID and need no escaping. It is no html/template: linking that package keeps every method of
// every type in the program, a quarter of its size.
const adminPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>%[2]s</title>
<style>body{font:16px/1.6 system-ui;margin:2rem auto;max-width:40rem;padding:0 1rem;color-scheme:light dark}
dt{font-family:ui-monospace,monospace}</style>
<h1>%[1]s</h1><p>%[2]s, version %[3]s, zone %[4]s</p>
<dl>
<dt><a href="/readyz">/readyz</a><dd>ready for work, and why not
<dt><a href="/healthz">/healthz</a><dd>alive
<dt><a href="/config">/config</a><dd>every setting: value, revision, which layer
<dt><a href="/circuits">/circuits</a><dd>circuits of this process's calls
<dt><a href="/hystrix.stream">/hystrix.stream</a><dd>the same for a Hystrix dashboard
<dt><a href="/overload">/overload</a><dd>how many requests this process serves at a time, and which it sheds
<dt><a href="/instances">/instances</a><dd>the instances that this process knows
<dt><a href="/balancers">/balancers</a><dd>the instances it calls, as its balancers see them
<dt><a href="/metrics">/metrics</a><dd>Prometheus metrics
<dt><a href="/version">/version</a><dd>what runs here
<dt><a href="/debug/pprof/">/debug/pprof/</a><dd>profiles
</dl>
</html>
`
