package circuit

import (
	"fmt"
	"strconv"
	"time"

	"bijou.dev/platform/config"
)

// The settings that force a circuit, for Setting.
const (
	ForceOpen   = "forceOpen"
	ForceClosed = "forceClosed"
)

// Setting returns the full name of a setting of a circuit, a group or "default": Setting("catalog", ForceOpen) is
// "circuit.catalog.forceOpen".
func Setting(key, name string) string { return "circuit." + key + "." + name }

// limits are the settings of one circuit at one moment, so that a call reads them at once.
type limits struct {
	timeout, slowCall           time.Duration // 0: off
	openFor                     time.Duration
	maxConcurrent, maxFallbacks int64
	minCalls, errorPercent      int64

	breakerEnabled, fallbackEnabled, forceOpen, forceClosed bool
}

// setting is everything there is to say about one live setting of circuits. Make one with declare.
type setting struct {
	name string
	// hystrix are its names in hystrix.stream, without "propertyValue_".
	hystrix []string
	// family declares the setting in a set. The result reads it for one circuit.
	family func(config.Set) func(keys []string) handle
	// text returns the value in limits as it is written in settings.
	text func(*limits) string
	// hystrixValue converts such a text to the value in hystrix.stream: numbers are summed over hosts.
	hystrixValue func(text string, hosts int64) any
}

// handle is one setting of one circuit.
type handle struct {
	read  func(*limits) // copies the value into its field
	watch func(changed func())
}

// table has every setting of a circuit: add one here, with a field in limits, and it is declared, read, watched and
// shown.
var table = []setting{
	declare(config.DurationFamily, "timeout", time.Second, config.Spec{
		Doc: "A call is canceled after this time. An earlier deadline of the caller applies first. 0s: no time-out.",
		Min: "0s", Max: "1h",
	}, func(l *limits) *time.Duration { return &l.timeout },
		"executionTimeoutInMilliseconds", "executionIsolationThreadTimeoutInMilliseconds"),
	declare(config.IntFamily, "maxConcurrent", 100, config.Spec{
		Doc: "Calls are rejected while this many are running.", Min: "0", Max: "1000000",
	}, func(l *limits) *int64 { return &l.maxConcurrent }, "executionIsolationSemaphoreMaxConcurrentRequests"),
	declare(config.BoolFamily, "breakerEnabled", true, config.Spec{
		Doc: "Whether failures may open the circuit.",
	}, func(l *limits) *bool { return &l.breakerEnabled }, "circuitBreakerEnabled"),
	declare(config.IntFamily, "minCalls", 20, config.Spec{
		Doc: "The circuit cannot open before this many calls ended within the window of 10 seconds.",
		Min: "1", Max: "1000000",
	}, func(l *limits) *int64 { return &l.minCalls }, "circuitBreakerRequestVolumeThreshold"),
	declare(config.IntFamily, "errorPercent", 50, config.Spec{
		Doc:  "The circuit opens when at least this share of the calls in the window of 10 seconds failed.",
		Unit: "percent", Min: "1", Max: "100",
	}, func(l *limits) *int64 { return &l.errorPercent }, "circuitBreakerErrorThresholdPercentage"),
	declare(config.DurationFamily, "openFor", 5*time.Second, config.Spec{
		Doc: "How long an open circuit rejects calls before it lets one through as a trial.", Min: "1ms", Max: "1h",
	}, func(l *limits) *time.Duration { return &l.openFor }, "circuitBreakerSleepWindowInMilliseconds"),
	declare(config.DurationFamily, "slowCall", 0, config.Spec{
		Doc: "A call that succeeds but takes longer counts as a failure. 0s: off.", Min: "0s", Max: "1h",
	}, func(l *limits) *time.Duration { return &l.slowCall }),
	declare(config.BoolFamily, ForceOpen, false, config.Spec{
		Doc: "Whether all calls are rejected. It takes precedence over forceClosed.",
	}, func(l *limits) *bool { return &l.forceOpen }, "circuitBreakerForceOpen"),
	declare(config.BoolFamily, ForceClosed, false, config.Spec{
		Doc: "Whether calls are let through whatever fails.",
	}, func(l *limits) *bool { return &l.forceClosed }, "circuitBreakerForceClosed"),
	declare(config.BoolFamily, "fallbackEnabled", true, config.Spec{
		Doc: "Whether fallbacks are used.",
	}, func(l *limits) *bool { return &l.fallbackEnabled }),
	declare(config.IntFamily, "maxFallbacks", 100, config.Spec{
		Doc: "Fallbacks are rejected while this many are running.", Min: "0", Max: "1000000",
	}, func(l *limits) *int64 { return &l.maxFallbacks }, "fallbackIsolationSemaphoreMaxConcurrentRequests"),
}

func declare[T bool | int64 | time.Duration](
	family func(config.Set, string, T, config.Spec) *config.Family[T],
	name string, def T, spec config.Spec, field func(*limits) *T, hystrix ...string,
) setting {
	return setting{
		name:    name,
		hystrix: hystrix,
		family: func(set config.Set) func([]string) handle {
			values := family(set, Setting("*", name), def, spec)
			return func(keys []string) handle {
				v := values.For(keys...)
				return handle{
					read:  func(l *limits) { *field(l) = v.Get() },
					watch: func(changed func()) { v.Watch(func(_, _ T) { changed() }) },
				}
			}
		},
		text:         func(l *limits) string { return fmt.Sprint(*field(l)) },
		hystrixValue: hystrixValue[T],
	}
}

// hystrixValue returns 0 or false for a text that is not a T: a snapshot may come from another version.
func hystrixValue[T any](text string, hosts int64) any {
	switch any(*new(T)).(type) {
	case bool:
		return text == "true"
	case time.Duration:
		d, _ := time.ParseDuration(text)
		return d.Milliseconds() * hosts
	}
	n, _ := strconv.ParseInt(text, 10, 64)
	return n * hosts
}

// settings are the live settings of one Set.
type settings struct {
	families          []func(keys []string) handle // in the order of table
	streamInterval    *config.Value[time.Duration]
	streamConnections *config.Value[int64]
}

func newSettings(set config.Set) settings {
	s := settings{
		streamInterval: config.Duration(set, "circuit.stream.interval", 500*time.Millisecond, config.Spec{
			Doc: "How often /hystrix.stream sends every circuit.", Min: "100ms", Max: "1m",
		}),
		streamConnections: config.Int(set, "circuit.stream.maxConnections", 5, config.Spec{
			Doc: "Further connections to /hystrix.stream are answered with 503.", Min: "0", Max: "1000",
		}),
	}
	for _, row := range table {
		s.families = append(s.families, row.family(set))
	}
	return s
}

// handles are the settings of one circuit, in the order of table.
type handles []handle

func (s *settings) handles(key Key) handles {
	keys := []string{key.String(), key.Group, "default"}
	all := make(handles, 0, len(s.families))
	for _, family := range s.families {
		all = append(all, family(keys))
	}
	return all
}

// watch calls changed after each change of any of the settings.
func (h handles) watch(changed func()) {
	for _, setting := range h {
		setting.watch(changed)
	}
}

// limits reads all settings.
func (h handles) limits() *limits {
	l := &limits{}
	for _, setting := range h {
		setting.read(l)
	}
	return l
}

// properties returns the settings by name, as Snapshot carries them.
func (l *limits) properties() map[string]string {
	all := make(map[string]string, len(table))
	for _, row := range table {
		all[row.name] = row.text(l)
	}
	return all
}

// mode says what decides whether a call may be made.
type mode uint8

const (
	modeAutomatic mode = iota // the breaker
	modeForcedOpen
	modeForcedClosed
	modeDisabled
)

func (l *limits) mode() mode {
	switch {
	case l.forceOpen:
		return modeForcedOpen
	case l.forceClosed:
		return modeForcedClosed
	case !l.breakerEnabled:
		return modeDisabled
	}
	return modeAutomatic
}

func (m mode) String() string {
	return [...]string{"automatic", "forced open", "forced closed", "disabled"}[m]
}

// reason says why a circuit is forced. It is empty in the other modes.
func (m mode) reason() string {
	switch m {
	case modeForcedOpen:
		return "forced open by the setting " + ForceOpen
	case modeForcedClosed:
		return "forced closed by the setting " + ForceClosed
	}
	return ""
}

// tooSlow reports whether a call that succeeded took so long that it counts as a failure.
func (l *limits) tooSlow(ev event, took time.Duration) bool {
	return ev == evSuccess && l.slowCall > 0 && took > l.slowCall
}
