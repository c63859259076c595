package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// trafficFaults are faults on the path of requests: drains, storms, connections, the edge, tracing.
var trafficFaults = []fault{
	{
		row: "4", name: "the edge restarted with open connections through it", on: processesOf, short: true,
		run: faultEdgeRestarts,
	},
	storm("catalog", true, fault{
		row: "18", name: "all catalogs 1 s slower", on: oneProcess, seconds: 10, victims: catalogs,
		inject: func(t testing.TB, p platform) {
			each(t, func(t testing.TB, i string) { p.(netInjector).slow(t, i, time.Second) }, catalogs...)
		},
		heal: func(t testing.TB, p platform) { each(t, p.(netInjector).resume, catalogs...) },
	}),
	{
		row: "17", name: "all connections of catalogs reset", on: oneProcess, seconds: 4, must: .995, victims: catalogs,
		inject: func(t testing.TB, p platform) { each(t, p.(netInjector).reset, catalogs...) },
		heal:   func(testing.TB, platform) {},
	},
	losing("7 % of the packets between edge and web lost", processesOf, "web-1", 8080, 0),
	losing("7 % of the packets from and to one of three catalogs lost, and what it receives delayed by 100 ms",
		oneProcess, "catalog-a-1", 7000, 100*time.Millisecond),
	storm("catalog", false, fault{
		row: "19", name: "half of the calls to catalogs fail", on: processesOf, seconds: 20,
		inject: func(t testing.TB, p platform) {
			must(t, p, "config", "set", "fault.errorPercent", "50", "--app", "catalog", "--reason", "a fault",
				"--wait", "20s")
		},
		heal: func(t testing.TB, p platform) { unset(t, p, "fault.errorPercent", "catalog") },
	}),
	storm("catalog", true, fault{
		row: "19", name: "half of the calls to catalogs fail, and circuits of web are set to open at 25 %",
		on:      processesOf,
		seconds: 12,
		inject: func(t testing.TB, p platform) {
			must(t, p, "config", "set", threshold, "25", "--app", "web", "--reason", "a fault", "--wait", "20s")
			must(t, p, "config", "set", "fault.errorPercent", "50", "--app", "catalog", "--reason", "a fault",
				"--wait", "20s")
		},
		heal: func(t testing.TB, p platform) {
			unset(t, p, "fault.errorPercent", "catalog")
			unset(t, p, threshold, "web")
		},
	}),
	storm("catalog", true, instancesKilled("20", "all catalogs down", processesOf, 30, 0, catalogs...)),
	{
		row: "22", name: "2000 clients reconnect at once, and 500 instances register at once", on: processesOf,
		run: faultClientsReconnectAtOnce,
	},
	{
		row: "23", name: "clients whose deadline is 50 ms for 500 ms of work", on: processesOf, short: true,
		run: faultDeadlineExpires,
	},
	{
		row: "24", name: "clients that disconnect in the middle of requests", on: processesOf, short: true,
		run: faultClientsDisconnect,
	},
	{row: "21", name: "three times the load", on: oneProcess, run: faultOverload},
	instancesKilled("34", "tracing down", processesOf, 6, 1, "tracing-1"),
	instancesPaused("34", "tracing paused", processesOf, 8, 1, "tracing-1"),
}

// losing drops packets of an instance, and delays those that it receives by late.
func losing(name string, on where, instance string, port int, late time.Duration) fault {
	undo := func() {}
	return fault{
		row: "17", name: name, on: on, seconds: 20, must: .995,
		inject: func(t testing.TB, p platform) {
			undo = lossy(t, p.addr(instance, port), .07)
			if late > 0 {
				p.(netInjector).slow(t, instance, late)
			}
		},
		heal: func(t testing.TB, p platform) {
			undo()
			if late > 0 {
				p.(netInjector).resume(t, instance)
			}
		},
	}
}

// threshold is the share of failures at which the circuits of catalog open.
const threshold = "circuit.catalog.errorPercent"

// storm records the circuits of all callers of a service while f makes calls to it fail. opens: at least one must open.
func storm(service string, opens bool, f fault) fault {
	var broken, healed time.Time
	inject, heal := f.inject, f.heal
	f.storm = service
	f.inject = func(t testing.TB, p platform) { broken = time.Now(); inject(t, p) }
	f.heal = func(t testing.TB, p platform) { heal(t, p); healed = time.Now() }
	f.beside = func(t testing.TB, p platform) func() (string, []string) {
		seen := watchCircuits(t, p, service)
		return func() (note string, missed []string) { return seen().verdict(broken, healed, opens) }
	}
	return f
}

// circuitHistory is what was seen of circuits while they were polled.
type circuitHistory struct {
	names   []string // circuits that were seen not closed
	first   time.Time
	why     string    // the reason of the first circuit that was not closed
	last    time.Time // last time a circuit was seen not closed
	running int       // largest number of concurrent calls seen in one circuit
	limit   int       // largest setting maxConcurrent
	open    []string  // circuits not closed at the last poll
}

func (s circuitHistory) verdict(broken, healed time.Time, opens bool) (note string, missed []string) {
	note = "no circuit opened"
	switch {
	case len(s.names) > 0:
		closed := max(0, s.last.Sub(healed)).Round(100 * time.Millisecond)
		note = fmt.Sprintf("%d circuits opened, the first, %s, after %v (%s), and all were closed %v after it healed",
			len(s.names), s.names[0], s.first.Sub(broken).Round(100*time.Millisecond), s.why, closed)
		if closed > 10*time.Second {
			note += " (aimed at 10 s: a circuit with few calls closes only with the next call)"
		}
	case opens:
		missed = append(missed, note)
	}
	note += fmt.Sprintf("; at most %d calls were in flight in one, of %d allowed", s.running, s.limit)
	if s.running > s.limit {
		missed = append(missed, fmt.Sprintf("%d calls were in flight in one circuit, at most %d are allowed", s.running,
			s.limit))
	}
	if len(s.open) > 0 {
		missed = append(missed, "these circuits are not closed at the end: "+strings.Join(s.open, ", "))
	}
	return note, missed
}

// watchCircuits polls the circuits of a service in all its callers until the returned function is called.
func watchCircuits(t testing.TB, p platform, service string) func() circuitHistory {
	var s circuitHistory
	stop := watch(t, 100*time.Millisecond, func(ctx context.Context) { s.poll(ctx, p, service) })
	return func() circuitHistory { stop(); return s }
}

func (s *circuitHistory) poll(ctx context.Context, p platform, service string) {
	var open []string
	for _, instance := range []string{"web-1", "recommendations-a-1", "recommendations-b-1", "search-1", "playback-1"} {
		var page struct {
			Circuits []struct {
				Name, Group, State, Reason string
				MaxConcurrent              int
				Properties                 struct{ MaxConcurrent string }
			}
		}
		if err := getJSON(ctx, "http://"+p.addr(instance, 9090)+"/circuits", &page); err != nil {
			continue // it is down; the last poll is after all instances have recovered
		}
		for _, c := range page.Circuits {
			if c.Group != service {
				continue
			}
			if limit, err := strconv.Atoi(c.Properties.MaxConcurrent); err == nil {
				s.limit = max(s.limit, limit)
			}
			s.running = max(s.running, c.MaxConcurrent)
			if c.State == "STATE_CLOSED" {
				continue
			}
			name := instance + " " + c.Name
			open = append(open, name)
			if s.last = time.Now(); s.first.IsZero() {
				s.first = s.last
				s.why, _, _ = strings.Cut(c.Reason, "; last")
			}
			if !slices.Contains(s.names, name) {
				s.names = append(s.names, name)
			}
		}
	}
	if ctx.Err() == nil {
		s.open = open
	}
}

// withEjectionTimes records when web stopped calling an instance that f makes silent, and when that instance served
// again.
func withEjectionTimes(service, victim string, f fault) fault {
	var broken, healed time.Time
	inject, heal := f.inject, f.heal
	f.inject = func(t testing.TB, p platform) { inject(t, p); broken = time.Now() }
	f.heal = func(t testing.TB, p platform) { heal(t, p); healed = time.Now() }
	f.beside = func(t testing.TB, p platform) func() (string, []string) {
		var avoided, ejected []time.Time // when web was seen to avoid or eject the instance
		type reading struct {
			at     time.Time
			served float64
		}
		var readings []reading
		stopWeb := watch(t, 50*time.Millisecond, func(ctx context.Context) {
			var all map[string][]struct {
				ID, Addr, Phase string
				Latency         float64 `json:"latencyMs"`
				Pending         int
			}
			if err := getJSON(ctx, "http://"+p.addr("web-1", 9090)+"/balancers", &all); err != nil {
				return
			}
			for _, e := range all[service] {
				if e.Addr != p.addr(victim, 7000) {
					continue
				}
				seen := time.Now()
				if e.Phase != "admitted" {
					ejected = append(ejected, seen)
				}
				if e.Phase != "admitted" || e.Pending == 0 && e.Latency > 100 {
					avoided = append(avoided, seen)
				}
			}
		})
		stopVictim := watch(t, 100*time.Millisecond, func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if n, err := metric(ctx, p, victim, "bijou_rpc_server_seconds_count", `code="OK"`, service); err == nil {
				readings = append(readings, reading{time.Now(), n})
			}
		})
		return func() (note string, missed []string) {
			stopWeb()
			stopVictim()
			var served []time.Time
			for i, r := range readings {
				if i > 0 && readings[i-1].at.After(healed) && r.served > readings[i-1].served {
					served = append(served, r.at)
				}
			}
			after := func(moments []time.Time, since time.Time) string {
				for _, m := range moments {
					if m.After(since) {
						return m.Sub(since).Round(100 * time.Millisecond).String()
					}
				}
				return "never"
			}
			back := after(served, healed)
			if back == "never" {
				missed = append(missed, victim+" did not serve again after the fault")
			}
			return fmt.Sprintf("web stopped calling it after %s (aimed at 3 s; ejected: %s), it served again %s "+
				"after it resumed (aimed at 10 s)",
				after(avoided, broken), after(ejected, broken), back), missed
		}
	}
	return f
}

// watch calls look every period until the returned function is called.
func watch(t testing.TB, period time.Duration, look func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(period)
		defer tick.Stop()
		for ctx.Err() == nil {
			look(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	return stop
}

// metric returns the sum of those samples of a metric whose labels contain all the given texts.
func metric(ctx context.Context, p platform, instance, name string, labels ...string) (sum float64, err error) {
	a, err := get(ctx, "http://"+p.addr(instance, 9090)+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(a.body) {
		sample, n, ok := sampleOf(strings.TrimSpace(line))
		if !ok || sample != name && !strings.HasPrefix(sample, name+"{") {
			continue
		}
		if !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(sample, l) }) {
			sum += n
		}
	}
	return sum, nil
}
