// Package route decides which instance takes a request.
//
// A [Balancer] holds the endpoints of one service. [Balancer.Pick] chooses one, [Picked.Done] reports the outcome, and
// what is learned steers the next pick. It knows nothing of protocols: the gateway uses it for HTTP, and [Resolver]
// puts it under a gRPC connection.
//
// # How a pick is made
//
//   - Two endpoints are drawn at random and the cheaper takes the request. Cost is peak EWMA latency x (pending + 1):
//     a slow answer raises it at once, time lowers it (route.ewma.decay). An endpoint that has never answered is
//     tried with one request at a time.
//   - A failed answer counts as at least route.failurePenalty of latency, so failing fast attracts no traffic. Once
//     each
//     route.ejection.base one request tries the endpoint again; if it succeeds the failure is forgotten.
//   - The own zone is preferred while it can carry its share: of the traffic
//     min(1, overprovision x healthy here x zones / healthy everywhere) stays, the rest goes to the other zones.
//     With fewer than route.zone.minEndpoints healthy endpoints here there is no preference at all.
//   - A new endpoint, or one let back in, takes a growing share of its turn for route.slowStart.window, unless the
//     other one drawn is new as well.
//   - An endpoint is ejected after route.ejection.consecutiveFailures requests in a row that never got an answer, or
//     when its success rate is far below that of the others. It stays out for route.ejection.base x the number of
//     ejections so far, at most route.ejection.max, less up to a fifth at random. Then one request at a time
//     probes it: success lets it back in with a slow start, failure ejects it again.
//   - No more than route.ejection.maxShare of the endpoints are ejected. Should more than route.panicThreshold be
//     out anyhow, because others left, everybody is used: when most look bad, the judgement is at fault.
//   - An excluded endpoint is never chosen. If all others are ejected, an ejected one is.
//   - Requests with one hash ([PickInfo.Hash]) go to one endpoint while it is not ejected and has no more than 8
//     requests in progress, or 1.25 times its part of all. Then cost, zone and slow start play no part.
//
// Every decision can be explained: see [Picked.Why] and [Balancer.State].
package route

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"

	"bijou.dev/platform/errs"
)

// Endpoint is one instance of a service, as the balancer needs to know it.
type Endpoint struct {
	// ID names the instance and stays the same while it moves or restarts. Empty: Addr serves as ID.
	ID string
	// Addr is where it listens, as host:port. The balancer does not dial it.
	Addr string
	// Zone is where it runs. Empty: unknown, which is a zone of its own.
	Zone string
	// Version is the release it runs, for [PickInfo.Version].
	Version string
}

// Options make a Balancer. The zero value works: no zone preference, default settings.
type Options struct {
	// Service names what is balanced, in errors. Empty: "service".
	Service string
	// Zone is where the caller runs. Empty: all zones are equal.
	Zone string
	// Settings are the live settings, shared by the balancers of a process. Nil: the defaults.
	Settings *Settings
	// Rand gives random bits and must be safe for concurrent use if the balancer is used so. Nil: math/rand/v2.
	// A seeded source makes picks repeatable.
	Rand func() uint64
}

// Balancer chooses among the endpoints of one service. Make one with [New]. All methods are safe for concurrent
// use. It runs no goroutine and needs no closing: time-driven work is done by the picks themselves.
type Balancer struct {
	service  string
	zone     string
	settings *Settings
	rand     func() uint64
	epoch    time.Time

	snap atomic.Pointer[snapshot] // what Pick reads; replaced, never changed

	mu        sync.Mutex
	members   []*member           // in the order given
	removed   map[string]departed // id -> history of an endpoint that left lately
	nextSweep int64               // when success rates are compared next
}

// member is an endpoint of the current set. It is immutable except for its stats, which outlive it.
type member struct {
	Endpoint
	*stats
	hash    uint64 // of ID
	ready   bool
	waiting bool            // for its gRPC connection to be made
	picker  balancer.Picker // of the gRPC connection; nil elsewhere
}

// departed is the history of an endpoint that left, kept for a while in case it returns.
type departed struct {
	m  *member // without its connection, and not ready
	at int64
}

// memory is how long an endpoint that left is remembered.
const memory = time.Minute

// New returns a Balancer without endpoints.
func New(o Options) *Balancer {
	if o.Service == "" {
		o.Service = "service"
	}
	if o.Settings == nil {
		o.Settings = defaultSettings()
	}
	if o.Rand == nil {
		o.Rand = rand.Uint64
	}
	b := &Balancer{
		service:   o.Service,
		zone:      o.Zone,
		settings:  o.Settings,
		rand:      o.Rand,
		epoch:     time.Now(),
		removed:   make(map[string]departed),
		nextSweep: math.MaxInt64,
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rebuildLocked(0)
	return b
}

// Update replaces the set of endpoints. An endpoint with an ID and Addr that were in the set keeps its history; one
// that returns within a minute gets it back, but starts slowly. A new address under an old ID is a new process and
// starts afresh. Of several endpoints with one ID the first counts.
func (b *Balancer) Update(endpoints []Endpoint) {
	members := make([]*member, len(endpoints))
	for i, e := range endpoints {
		members[i] = &member{Endpoint: e, ready: true}
	}
	b.update(members)
}

func (b *Balancer) update(members []*member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.forgetLocked(now)
	known := make(map[string]*member, len(b.members))
	for _, m := range b.members {
		known[m.ID] = m
	}
	next := make([]*member, 0, len(members))
	seen := make(map[string]bool, len(members))
	for _, m := range members {
		if m.ID == "" {
			m.ID = m.Addr
		}
		if seen[m.ID] {
			continue
		}
		seen[m.ID] = true
		m.hash = HashOf(m.ID)
		b.recallLocked(m, known[m.ID], now)
		next = append(next, m)
	}
	for id, m := range known {
		if !seen[id] {
			b.removed[id] = departed{&member{Endpoint: m.Endpoint, stats: m.stats}, now}
		}
	}
	b.members = next
	b.rebuildLocked(now)
}

// recallLocked gives m the history it had, or a new one. Whoever comes back, to the set or from a lost connection,
// starts slowly again: the usual reason is a restart.
func (b *Balancer) recallLocked(m, before *member, now int64) {
	if d, ok := b.removed[m.ID]; ok && before == nil {
		before = d.m
	}
	delete(b.removed, m.ID)
	if before == nil || before.Addr != m.Addr {
		m.stats = newStats(now)
		return
	}
	m.stats = before.stats
	if m.ready && !before.ready {
		m.born.Store(now)
	}
}

// PickInfo narrows a pick. The zero value asks for any endpoint.
type PickInfo struct {
	// Exclude lists endpoint IDs that must not be chosen: those that an earlier attempt has tried.
	Exclude []string
	// Version pins the endpoints of one version. Empty: all of them.
	Version string
	// Stream says that the request may stay open for long, so that its duration is not a latency. Such a request
	// still counts as pending, and may report the time to its first answer with [Picked.Answered].
	Stream bool
	// Hash is the hash of what requests have in common that should go to the same endpoint; [HashOf] makes one. All
	// processes with the same endpoints choose the same one, until it is ejected, or has more than 8 requests in
	// progress and more than 1.25 times its part of all: see hash.go. Picks at the same moment may exceed this bound by
	// their number. A request that probes an ejected endpoint goes there whatever its hash is. Zero: the request goes to
	// any endpoint.
	Hash uint64
}

// Picked is the endpoint chosen for one request. Done must be called on one of its copies. It is not safe for
// concurrent use. The zero value is no pick, and all methods accept it.
type Picked struct {
	b        *Balancer
	m, other *member
	pool     *pool
	start    int64 // ns since b.epoch

	cost, otherCost float64
	excluded        int
	scope           Scope
	probe           bool
	again           bool // tries an endpoint that failed
	stream          bool
	answered        bool
}

// Pick chooses an endpoint. It does not block, wait or allocate. The error is of kind errs.Unavailable and says how
// many endpoints are known, ready, ejected and excluded.
func (b *Balancer) Pick(info PickInfo) (Picked, error) {
	now := b.now()
	s := b.current(now)
	pl := s.pool(info.Version)
	if pl == nil {
		return Picked{}, b.noVersion(s, info.Version)
	}
	p := Picked{b: b, pool: pl, start: now, excluded: len(info.Exclude), stream: info.Stream}
	if len(pl.probes) > 0 && len(info.Exclude) == 0 && p.takeProbe(s.tuning) {
		return p, nil
	}
	var found bool
	if info.Hash != 0 {
		found = p.pickHashed(s.tuning, info.Hash, info.Exclude)
	} else {
		found = p.choose(s.tuning, info.Exclude)
	}
	if !found {
		return Picked{}, b.noEndpoint(pl, info.Exclude)
	}
	p.open().Add(1)
	return p, nil
}

// open is the counter that an unfinished request is in.
func (p *Picked) open() *atomic.Int64 {
	if p.stream {
		return &p.m.streams
	}
	return &p.m.pending
}

// Endpoint is where the request goes. The zero Endpoint for the zero Picked.
func (p *Picked) Endpoint() Endpoint {
	if p.m == nil {
		return Endpoint{}
	}
	return p.m.Endpoint
}

// Outcome is what became of a request, as far as the endpoint is to blame.
type Outcome uint8

// The outcomes.
const (
	// Success is any answer of the endpoint that is not its fault, "not found" included.
	Success Outcome = iota
	// Failure is an answer that is its fault: an internal error, an overload.
	Failure
	// Unreachable is no answer: connection refused or lost, time-out, a bad-gateway class answer.
	Unreachable
	// Abandoned says that the caller gave up, or never sent the request: nothing is known, except that the
	// endpoint took at least this long.
	Abandoned
)

// Answered reports that the endpoint has begun an answer that may take as long as it likes, such as an event stream:
// the time since Pick is its latency, and from now on the request counts as a stream. Ordinary requests need only
// Done. Calls after the first, or after Done, do nothing.
func (p *Picked) Answered(o Outcome) {
	if p.b == nil || p.answered {
		return
	}
	p.open().Add(-1)
	p.judge(o, true)
	p.answered, p.stream = true, true
	p.open().Add(1)
}

// Done reports that the request is over. The first call counts. After Answered only a failure adds anything.
func (p *Picked) Done(o Outcome) {
	if p.b == nil {
		return
	}
	p.open().Add(-1)
	if !p.answered || o == Failure || o == Unreachable {
		p.judge(o, !p.stream)
	}
	p.b = nil
}

func (b *Balancer) now() int64 { return int64(time.Since(b.epoch)) }

func (b *Balancer) noVersion(s *snapshot, version string) error {
	have := make([]string, 0, len(s.versions))
	for v := range s.versions {
		have = append(have, v)
	}
	slices.Sort(have)
	return errs.Errorf(errs.Unavailable, "picking an instance of %s: none has version %q; %d known, of versions %q",
		b.service, version, s.all.known, have).Because("NO_ENDPOINT", "service", b.service)
}

func (b *Balancer) noEndpoint(pl *pool, exclude []string) error {
	what := b.service
	if pl.version != "" {
		what += " " + pl.version
	}
	return errs.Errorf(errs.Unavailable,
		"picking an instance of %s: %d known, %d not ready, %d ejected, %d excluded by earlier attempts",
		what, pl.known, pl.known-len(pl.ready), pl.ejected, pl.countExcluded(exclude)).
		Because("NO_ENDPOINT", "service", b.service, "known", fmt.Sprint(pl.known))
}
