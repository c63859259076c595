package service

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// adminHandler is the page every process serves on its admin listener, which is never routed by the edge.
func (p *Process) adminHandler(m *http.ServeMux) http.Handler {
	started := time.Now()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	m.HandleFunc("GET /readyz", p.serveReady)
	m.Handle("GET /metrics", promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{Registry: p.metrics}))
	m.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{
			"service": p.opts.Name, "instance": p.opts.Instance, "version": p.opts.Version, "build": Version(),
			"go": runtime.Version(), "environment": p.opts.Environment, "region": p.opts.Region, "zone": p.opts.Zone,
			"started": started.UTC().Format(time.RFC3339),
		})
	})
	m.HandleFunc("GET /config", p.serveConfig)
	m.Handle("GET /circuits", p.circuits.Handler())
	m.Handle("GET /hystrix.stream", p.circuits.StreamHandler())
	m.Handle("GET /overload", p.overload.Handler())
	m.HandleFunc("GET /instances", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, p.discovery.Instances(r.URL.Query().Get("service")))
	})
	m.HandleFunc("GET /balancers", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, p.client.Balancers())
	})
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

func (p *Process) serveReady(w http.ResponseWriter, _ *http.Request) {
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
	writeJSON(w, code, answer)
}

func (p *Process) serveConfig(w http.ResponseWriter, _ *http.Request) {
	connected, since := p.config.Connected()
	writeJSON(w, http.StatusOK, map[string]any{
		"revision": p.config.Revision(), "connected": connected, "since": since, "settings": p.config.Entries(),
	})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the client may have closed the connection
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
