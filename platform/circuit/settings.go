package circuit

import (
	"strconv"
	"time"

	"bijou.dev/platform/config"
)

// settings are the families of live settings that all circuits of a Set share.
type settings struct {
	enabled, forceOpen, forceClosed, timeoutEnabled, fallbackEnabled *config.Family[bool]

	volume, errorPercent, sleep, slow, timeout, concurrent, fallbacks *config.Family[int64]

	streamInterval, streamConnections *config.Value[int64]
}

func newSettings(set config.Set) settings {
	flag := func(name string, def bool, doc string) *config.Family[bool] {
		return config.BoolFamily(set, "hystrix.command.*."+name, def, config.Spec{Doc: doc})
	}
	number := func(name string, def int64, spec config.Spec) *config.Family[int64] {
		return config.IntFamily(set, "hystrix.command.*."+name, def, spec)
	}
	return settings{
		enabled:         flag("circuitBreaker.enabled", true, "Whether failures may open the circuit."),
		forceOpen:       flag("circuitBreaker.forceOpen", false, "Refuse all calls. Wins over forceClosed."),
		forceClosed:     flag("circuitBreaker.forceClosed", false, "Let all calls through, whatever fails."),
		timeoutEnabled:  flag("execution.timeout.enabled", true, "Whether calls are canceled after the time-out."),
		fallbackEnabled: flag("fallback.enabled", true, "Whether fallbacks are used."),

		volume: number("circuitBreaker.requestVolumeThreshold", 20, config.Spec{
			Doc: "The circuit cannot open before this many calls ended within the rolling window of 10 seconds.", Min: "1", Max: "1000000",
		}),
		errorPercent: number("circuitBreaker.errorThresholdPercentage", 50, config.Spec{
			Doc: "The circuit opens when at least this share of the calls in the rolling window failed.", Unit: "percent", Min: "1", Max: "100",
		}),
		sleep: number("circuitBreaker.sleepWindowInMilliseconds", 5000, config.Spec{
			Doc: "How long an open circuit refuses calls before it lets one through as a trial.", Unit: "ms", Min: "1", Max: "3600000",
		}),
		slow: number("circuitBreaker.slowCallDurationInMilliseconds", 0, config.Spec{
			Doc: "Calls that succeed but take longer count as failures. 0: off.", Unit: "ms", Min: "0", Max: "3600000",
		}),
		timeout: number("execution.isolation.thread.timeoutInMilliseconds", 1000, config.Spec{
			Doc: "A call is canceled after this time. A sooner deadline of the caller holds.", Unit: "ms", Min: "1", Max: "3600000",
		}),
		concurrent: number("execution.isolation.semaphore.maxConcurrentRequests", 100, config.Spec{
			Doc: "More calls at once than this are refused.", Min: "0", Max: "1000000",
		}),
		fallbacks: number("fallback.isolation.semaphore.maxConcurrentRequests", 100, config.Spec{
			Doc: "More fallbacks at once than this are refused.", Min: "0", Max: "1000000",
		}),

		streamInterval: config.Int(set, "hystrix.stream.intervalInMilliseconds", 500, config.Spec{
			Doc: "How often /hystrix.stream sends every circuit.", Unit: "ms", Min: "100", Max: "60000",
		}),
		streamConnections: config.Int(set, "hystrix.stream.maxConcurrentConnections", 5, config.Spec{
			Doc: "More connections to /hystrix.stream than this are answered with 503.", Min: "0", Max: "1000",
		}),
	}
}

// handles are one circuit's values of the settings.
type handles struct {
	enabled, forceOpen, forceClosed, timeoutEnabled, fallbackEnabled *config.Value[bool]

	volume, errorPercent, sleep, slow, timeout, concurrent, fallbacks *config.Value[int64]
}

func (s *settings) handles(key Key) handles {
	names := []string{key.String(), key.Group, "default"}
	return handles{
		enabled:         s.enabled.For(names...),
		forceOpen:       s.forceOpen.For(names...),
		forceClosed:     s.forceClosed.For(names...),
		timeoutEnabled:  s.timeoutEnabled.For(names...),
		fallbackEnabled: s.fallbackEnabled.For(names...),
		volume:          s.volume.For(names...),
		errorPercent:    s.errorPercent.For(names...),
		sleep:           s.sleep.For(names...),
		slow:            s.slow.For(names...),
		timeout:         s.timeout.For(names...),
		concurrent:      s.concurrent.For(names...),
		fallbacks:       s.fallbacks.For(names...),
	}
}

// watch calls fn after each change of any of the values.
func (h *handles) watch(fn func()) {
	for _, v := range []*config.Value[bool]{h.enabled, h.forceOpen, h.forceClosed, h.timeoutEnabled, h.fallbackEnabled} {
		v.Watch(func(_, _ bool) { fn() })
	}
	for _, v := range []*config.Value[int64]{h.volume, h.errorPercent, h.sleep, h.slow, h.timeout, h.concurrent, h.fallbacks} {
		v.Watch(func(_, _ int64) { fn() })
	}
}

// mode says who decides whether a call may go through.
type mode uint8

const (
	modeAutomatic    mode = iota // the breaker
	modeForcedOpen               // nobody may
	modeForcedClosed             // everybody may
	modeDisabled                 // everybody may, because there is no breaker
)

// limits are the settings of one circuit as one value, so that a call reads them at once.
type limits struct {
	mode mode
	// volume and errorPercent are the thresholds at which the circuit opens.
	volume, errorPercent int64
	sleep                time.Duration
	// slow and timeout are 0 when off.
	slow, timeout         time.Duration
	concurrent, fallbacks int64
	fallbackEnabled       bool
}

func (l *limits) tooSlow(ev event, took time.Duration) bool {
	return ev == evSuccess && l.slow > 0 && took > l.slow
}

func (h *handles) limits() *limits {
	l := &limits{
		volume:          h.volume.Get(),
		errorPercent:    h.errorPercent.Get(),
		sleep:           time.Duration(h.sleep.Get()) * time.Millisecond,
		slow:            time.Duration(h.slow.Get()) * time.Millisecond,
		concurrent:      h.concurrent.Get(),
		fallbacks:       h.fallbacks.Get(),
		fallbackEnabled: h.fallbackEnabled.Get(),
	}
	if h.timeoutEnabled.Get() {
		l.timeout = time.Duration(h.timeout.Get()) * time.Millisecond
	}
	switch {
	case h.forceOpen.Get():
		l.mode = modeForcedOpen
	case h.forceClosed.Get():
		l.mode = modeForcedClosed
	case !h.enabled.Get():
		l.mode = modeDisabled
	}
	return l
}

// properties returns the settings in force by the suffix that hystrix.stream gives them.
func (h *handles) properties() map[string]string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return map[string]string{
		"circuitBreakerEnabled":                            strconv.FormatBool(h.enabled.Get()),
		"circuitBreakerForceOpen":                          strconv.FormatBool(h.forceOpen.Get()),
		"circuitBreakerForceClosed":                        strconv.FormatBool(h.forceClosed.Get()),
		"circuitBreakerRequestVolumeThreshold":             number(h.volume.Get()),
		"circuitBreakerErrorThresholdPercentage":           number(h.errorPercent.Get()),
		"circuitBreakerSleepWindowInMilliseconds":          number(h.sleep.Get()),
		"circuitBreakerSlowCallDurationInMilliseconds":     number(h.slow.Get()),
		"executionTimeoutEnabled":                          strconv.FormatBool(h.timeoutEnabled.Get()),
		"executionTimeoutInMilliseconds":                   number(h.timeout.Get()),
		"executionIsolationSemaphoreMaxConcurrentRequests": number(h.concurrent.Get()),
		"fallbackEnabled":                                  strconv.FormatBool(h.fallbackEnabled.Get()),
		"fallbackIsolationSemaphoreMaxConcurrentRequests":  number(h.fallbacks.Get()),
	}
}
