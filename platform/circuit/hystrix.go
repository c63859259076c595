package circuit

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/load"
)

// WriteEvents writes snaps as hystrix.stream does: one server-sent event for each circuit as a HystrixCommand, then one
// for each group as a HystrixThreadPool, which older dashboards expect although no threads are pooled here. Executing
// and total latency are the same, because a call never queues.
//
// A Snapshot with ReportingHosts above one is written as Turbine does: with sums over its hosts, also of latencies,
// percentages and settings. Dashboards divide them by reportingHosts. IsCircuitBreakerOpen is then the number of hosts
// when all are open, and {"true":1,"false":2} when some are.
func WriteEvents(w io.Writer, snaps []*circuitsv1.Snapshot, now time.Time) error {
	pools := map[string]*pool{}
	for _, s := range snaps {
		if err := writeEvent(w, command(s, now)); err != nil {
			return err
		}
		if pools[s.Group] == nil {
			pools[s.Group] = &pool{}
		}
		pools[s.Group].add(s)
	}
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		if err := writeEvent(w, pools[name].event(name, now)); err != nil {
			return err
		}
	}
	return nil
}

func writeEvent(w io.Writer, event map[string]any) error {
	text, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encoding event %v: %w", event["name"], err)
	}
	_, err = fmt.Fprintf(w, "data: %s\n\n", text)
	return err
}

// rollingKeys maps the counts of hystrix.stream to events. Those without an event are always 0 here: there is no
// request cache, no collapser, no observable command and no thread pool.
var rollingKeys = map[string]string{
	"rollingCountBadRequests":        "BAD_REQUEST",
	"rollingCountCollapsedRequests":  "",
	"rollingCountEmit":               "",
	"rollingCountExceptionsThrown":   "EXCEPTION_THROWN",
	"rollingCountFailure":            "FAILURE",
	"rollingCountFallbackEmit":       "",
	"rollingCountFallbackFailure":    "FALLBACK_FAILURE",
	"rollingCountFallbackMissing":    "FALLBACK_MISSING",
	"rollingCountFallbackRejection":  "FALLBACK_REJECTION",
	"rollingCountFallbackSuccess":    "FALLBACK_SUCCESS",
	"rollingCountResponsesFromCache": "",
	"rollingCountSemaphoreRejected":  "SEMAPHORE_REJECTED",
	"rollingCountShortCircuited":     "SHORT_CIRCUITED",
	"rollingCountSuccess":            "SUCCESS",
	"rollingCountThreadPoolRejected": "",
	"rollingCountTimeout":            "TIMEOUT",
}

// percentiles are those of hystrix.stream.
var percentiles = map[string]float64{
	"0": 0, "25": 25, "50": 50, "75": 75, "90": 90, "95": 95, "99": 99, "99.5": 99.5, "100": 100,
}

// command is one HystrixCommand event.
func command(s *circuitsv1.Snapshot, now time.Time) map[string]any {
	hosts := int64(max(s.ReportingHosts, 1))
	var l load.Load
	l.AddProto(s.Load)
	latency := map[string]int64{}
	for name, p := range percentiles {
		latency[name] = summed(l.Latency.Percentile(p), hosts)
	}
	mean := summed(l.Latency.Mean(), hosts)
	e := map[string]any{
		"type": "HystrixCommand", "name": s.Name, "group": s.Group, "threadPool": s.Group,
		"currentTime": now.UnixMilli(), "reportingHosts": hosts,
		"isCircuitBreakerOpen": openValue(s, hosts),
		"errorPercentage":      int64(s.ErrorPercentage) * hosts, "errorCount": s.Errors, "requestCount": s.Requests,
		"currentConcurrentExecutionCount": s.Concurrent, "rollingMaxConcurrentExecutionCount": s.MaxConcurrent,
		"latencyExecute_mean": mean, "latencyExecute": latency, "latencyTotal_mean": mean, "latencyTotal": latency,

		"propertyValue_executionIsolationStrategy":                    "SEMAPHORE",
		"propertyValue_executionIsolationThreadInterruptOnTimeout":    true,
		"propertyValue_executionIsolationThreadPoolKeyOverride":       nil,
		"propertyValue_metricsRollingStatisticalWindowInMilliseconds": load.Window.Milliseconds() * hosts,
		"propertyValue_requestCacheEnabled":                           false,
		"propertyValue_requestLogEnabled":                             false,
	}
	for _, row := range table {
		for _, name := range row.hystrix {
			e["propertyValue_"+name] = row.hystrixValue(s.Properties[row.name], hosts)
		}
	}
	for key, ev := range rollingKeys {
		e[key] = s.Rolling[ev]
	}
	return e
}

// summed returns whole milliseconds times hosts: dashboards divide by the number of hosts.
func summed(d time.Duration, hosts int64) int64 {
	return int64(d.Seconds()*1000*float64(hosts) + 0.5)
}

// OpenInstances returns how many processes of s have the circuit open, half-open or forced open. If s does not say it,
// then all or none, according to its state.
func OpenInstances(s *circuitsv1.Snapshot) int32 {
	switch s.State {
	case circuitsv1.State_STATE_OPEN, circuitsv1.State_STATE_HALF_OPEN, circuitsv1.State_STATE_FORCED_OPEN:
		return cmp.Or(s.OpenInstances, max(s.ReportingHosts, 1))
	}
	return s.OpenInstances
}

func openValue(s *circuitsv1.Snapshot, hosts int64) any {
	open := int64(OpenInstances(s))
	switch {
	case open == 0:
		return false
	case hosts == 1:
		return true
	case open == hosts:
		return hosts
	}
	return map[string]int64{"true": open, "false": hosts - open}
}

// pool sums the circuits of one group.
type pool struct {
	hosts                                  int32
	active, maxActive, size, ran, rejected int64
}

func (p *pool) add(s *circuitsv1.Snapshot) {
	p.hosts = max(p.hosts, cmp.Or(s.ReportingHosts, 1))
	p.active += int64(s.Concurrent)
	p.maxActive += int64(s.MaxConcurrent)
	size, _ := strconv.ParseInt(s.Properties["maxConcurrent"], 10, 64)
	p.size += size * int64(cmp.Or(s.ReportingHosts, 1))
	for _, ev := range []event{evSuccess, evFailure, evIsolatedFailure, evTimeout, evBadRequest, evCanceled} {
		p.ran += s.Rolling[eventNames[ev]]
	}
	p.rejected += s.Rolling[eventNames[evSemaphoreRejected]]
}

func (p *pool) event(name string, now time.Time) map[string]any {
	return map[string]any{
		"type": "HystrixThreadPool", "name": name, "currentTime": now.UnixMilli(), "reportingHosts": p.hosts,
		"currentActiveCount": p.active, "currentCompletedTaskCount": p.ran, "currentTaskCount": p.ran + p.active,
		"currentCorePoolSize": p.size, "currentLargestPoolSize": p.maxActive, "currentMaximumPoolSize": p.size,
		"currentPoolSize": p.active, "currentQueueSize": 0,
		"rollingCountThreadsExecuted": p.ran, "rollingMaxActiveThreads": p.maxActive,
		"rollingCountCommandRejections":                               p.rejected,
		"propertyValue_queueSizeRejectionThreshold":                   0,
		"propertyValue_metricsRollingStatisticalWindowInMilliseconds": load.Window.Milliseconds() * int64(p.hosts),
	}
}
