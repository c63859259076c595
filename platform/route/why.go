package route

import (
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
)

// Scope says which endpoints a pick chose from.
type Scope uint8

// The scopes.
const (
	Everywhere Scope = iota // all that are not ejected: zones play no part
	Local                   // the caller's zone
	Spilled                 // the other zones: the caller's zone cannot carry its share
	Widened                 // beyond the zone, or even the ejected: the others were excluded
	Probe                   // one endpoint, to see whether it is well again after its ejection
	Hashed                  // the endpoint of the request's hash, or the next one that has room
)

// String returns the scope in a word: "local".
func (s Scope) String() string {
	return [...]string{"everywhere", "local", "spilled", "widened", "probe", "hashed"}[s]
}

// Why explains a pick.
type Why struct {
	// Chosen is the endpoint picked, Other the one it was compared with, or whose hash it is and which was too busy. Other
	// is empty if there was no choice.
	Chosen, Other Endpoint
	// ChosenCost and OtherCost are latency x (pending + 1) at the time of the pick. Zero: never used, or long ago.
	ChosenCost, OtherCost time.Duration
	// Scope says which endpoints were chosen from, LocalShare which part of the traffic stays in the zone. LocalShare
	// is 0 where zones play no part.
	Scope      Scope
	LocalShare float64
	// Known, Ready and Ejected count the endpoints, of the pinned version if there is one.
	Known, Ready, Ejected int
	// Excluded counts the IDs that the caller ruled out.
	Excluded int
	// Panic says that so many were ejected that ejections were ignored.
	Panic bool
	// Version is the version pinned. Empty: none.
	Version string
}

// Why explains the pick. It costs nothing unless called. The zero Why for the zero Picked.
func (p *Picked) Why() Why {
	if p.m == nil {
		return Why{}
	}
	w := Why{
		Chosen:     p.m.Endpoint,
		ChosenCost: time.Duration(p.cost),
		Scope:      p.scope,
		LocalShare: p.pool.localShare,
		Known:      p.pool.known,
		Ready:      len(p.pool.ready),
		Ejected:    p.pool.ejected,
		Excluded:   p.excluded,
		Panic:      p.pool.panic,
		Version:    p.pool.version,
	}
	if p.other != nil {
		w.Other, w.OtherCost = p.other.Endpoint, time.Duration(p.otherCost)
	}
	return w
}

// AppendAttributes appends the explanation as span attributes, at most 13 and all under "bijou.route.".
func (w Why) AppendAttributes(kv []attribute.KeyValue) []attribute.KeyValue {
	kv = append(kv,
		attribute.String("bijou.route.instance", w.Chosen.ID),
		attribute.String("bijou.route.zone", w.Chosen.Zone),
		attribute.Float64("bijou.route.cost_ms", millis(w.ChosenCost)),
		attribute.String("bijou.route.scope", w.Scope.String()),
		attribute.Int("bijou.route.known", w.Known),
		attribute.Int("bijou.route.ready", w.Ready),
		attribute.Int("bijou.route.ejected", w.Ejected),
	)
	if w.Other.ID != "" {
		kv = append(kv, attribute.String("bijou.route.other", w.Other.ID),
			attribute.Float64("bijou.route.other_cost_ms", millis(w.OtherCost)))
	}
	if w.LocalShare > 0 {
		kv = append(kv, attribute.Float64("bijou.route.local_share", w.LocalShare))
	}
	if w.Excluded > 0 {
		kv = append(kv, attribute.Int("bijou.route.excluded", w.Excluded))
	}
	if w.Panic {
		kv = append(kv, attribute.Bool("bijou.route.panic", true))
	}
	if w.Version != "" {
		kv = append(kv, attribute.String("bijou.route.version", w.Version))
	}
	return kv
}

// String is the explanation as one line, for logs.
func (w Why) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (cost %v)", w.Chosen.ID, w.ChosenCost.Round(time.Microsecond))
	if w.Other.ID != "" {
		fmt.Fprintf(&b, " over %s (cost %v)", w.Other.ID, w.OtherCost.Round(time.Microsecond))
	}
	fmt.Fprintf(&b, ", %v, %d of %d ready, %d ejected", w.Scope, w.Ready, w.Known, w.Ejected)
	if w.Excluded > 0 {
		fmt.Fprintf(&b, ", %d excluded", w.Excluded)
	}
	if w.Panic {
		b.WriteString(", panic")
	}
	return b.String()
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// EndpointState is what a balancer knows about one endpoint, for people.
type EndpointState struct {
	ID      string `json:"id"`
	Addr    string `json:"addr"`
	Zone    string `json:"zone,omitempty"`
	Version string `json:"version,omitempty"`
	// Ready is false while the connection is down. HTTP endpoints are always ready.
	Ready bool `json:"ready"`
	// Phase is "admitted", "ejected", or "probation": out until one request succeeds.
	Phase string `json:"phase"`
	// LatencyMS is the peak EWMA in milliseconds. Zero: never used, or long ago.
	LatencyMS float64 `json:"latencyMs"`
	Pending   int64   `json:"pending"`
	// Share is the part of its turn that the endpoint takes: below 1 in slow start.
	Share float64 `json:"share"`
	// Failures counts the requests in a row that got no answer.
	Failures uint32 `json:"failures"`
	// Ejections counts the ejections of late, which lengthen the next one.
	Ejections uint32 `json:"ejections,omitempty"`
	// EjectedUntil is when a probe is allowed. Zero: not ejected.
	EjectedUntil time.Time `json:"ejectedUntil,omitzero"`
	// Reason says why it was ejected last. Empty: never.
	Reason string `json:"reason,omitempty"`
}

// State reports all endpoints, in the order they were given.
func (b *Balancer) State() []EndpointState {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, t := b.now(), b.settings.now()
	states := make([]EndpointState, 0, len(b.members))
	for _, m := range b.members {
		s := EndpointState{
			ID: m.ID, Addr: m.Addr, Zone: m.Zone, Version: m.Version,
			Ready:     m.ready,
			Phase:     [...]string{"admitted", "ejected", "probation"}[m.phase.Load()],
			LatencyMS: m.ewma.at(now, t.decay) / float64(time.Millisecond),
			Pending:   m.pending.Load(),
			Share:     t.share(now - m.born.Load()),
			Failures:  m.failures.Load(),
			Ejections: m.ejections,
			Reason:    m.reason,
		}
		if m.phase.Load() == ejected {
			s.EjectedUntil = b.epoch.Add(time.Duration(m.until))
		}
		states = append(states, s)
	}
	return states
}
