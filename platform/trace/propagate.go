package trace

import (
	"context"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// MD carries a trace context in gRPC metadata.
type MD metadata.MD

var _ propagation.ValuesGetter = MD{}

// Get returns the first value of key, or "".
func (m MD) Get(key string) string {
	if v := m.Values(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Values returns all values of key.
func (m MD) Values(key string) []string { return metadata.MD(m).Get(key) }

// Set replaces the values of key.
func (m MD) Set(key, value string) { metadata.MD(m).Set(key, value) }

// Keys lists the keys.
func (m MD) Keys() []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// A header has its name as in gRPC metadata and as in net/http, so that no name is converted when carriers are read.
type header struct{ lower, canonical string }

var (
	traceparent = header{"traceparent", "Traceparent"}
	tracestate  = header{"tracestate", "Tracestate"}
	b3Single    = header{"b3", "B3"}
	b3Trace     = header{"x-b3-traceid", "X-B3-Traceid"}
	b3Span      = header{"x-b3-spanid", "X-B3-Spanid"}
	b3Sampled   = header{"x-b3-sampled", "X-B3-Sampled"}
	b3Flags     = header{"x-b3-flags", "X-B3-Flags"}
)

func (h header) values(c propagation.TextMapCarrier) []string {
	switch c := c.(type) {
	case propagation.HeaderCarrier:
		return c[h.canonical]
	case MD:
		return c[h.lower]
	case propagation.ValuesGetter:
		return c.Values(h.lower)
	}
	if v := c.Get(h.lower); v != "" {
		return []string{v}
	}
	return nil
}

// one returns the value if there is exactly one. Several values contradict each other and count as none.
func (h header) one(c propagation.TextMapCarrier) string {
	if v := h.values(c); len(v) == 1 {
		return strings.Trim(v[0], " \t")
	}
	return ""
}

func (h header) set(c propagation.TextMapCarrier, value string) {
	switch c := c.(type) {
	case propagation.HeaderCarrier:
		c[h.canonical] = []string{value}
	case MD:
		c[h.lower] = []string{value}
	default:
		c.Set(h.lower, value)
	}
}

// remove deletes the header, because a proxy may have copied it from the incoming request. Other carriers start empty.
func (h header) remove(c propagation.TextMapCarrier) {
	switch c := c.(type) {
	case propagation.HeaderCarrier:
		http.Header(c).Del(h.canonical)
	case MD:
		delete(c, h.lower)
	}
}

type propagator struct{}

// Inject writes the span context of ctx. If it is not valid, Inject writes nothing.
func (propagator) Inject(ctx context.Context, c propagation.TextMapCarrier) {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return
	}
	traceparent.set(c, formatTraceparent(sc))
	if state := stateOf(ctx, sc); state != "" {
		tracestate.set(c, state)
	} else {
		tracestate.remove(c)
	}
}

// Extract returns ctx with the caller's span context and sampling decision, or ctx itself when there is none.
func (propagator) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	ctx, sc := extract(ctx, c)
	if sc.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, sc)
	}
	return ctx
}

// extract returns the caller's span context, which is not valid when there is none, and ctx with all else that comes
// from the caller.
func extract(ctx context.Context, c propagation.TextMapCarrier) (context.Context, trace.SpanContext) {
	sc, ok := parseTraceparent(traceparent.one(c))
	if ok {
		state, all := parseTracestate(tracestate.values(c))
		if all != "" {
			ctx = context.WithValue(ctx, wholeStateKey{}, &wholeState{sc.TraceID, state.String(), all})
		}
		sc.TraceState = state
	} else {
		var d decision
		if sc, d = extractB3(c); d != undecided {
			ctx = context.WithValue(ctx, decisionKey{}, d)
		}
	}
	sc.Remote = true
	return ctx, trace.NewSpanContext(sc)
}

// Fields returns the keys that Inject sets.
func (propagator) Fields() []string { return []string{traceparent.lower, tracestate.lower} }

// keptFlags are the trace flags that W3C defines. Others must not be propagated.
const keptFlags = trace.FlagsSampled | trace.FlagsRandom

func formatTraceparent(sc trace.SpanContext) string {
	var b [55]byte
	tid, sid := sc.TraceID(), sc.SpanID()
	copy(b[:], "00-")
	hex.Encode(b[3:], tid[:])
	b[35] = '-'
	hex.Encode(b[36:], sid[:])
	b[52] = '-'
	hex.Encode(b[53:], []byte{byte(sc.TraceFlags() & keptFlags)})
	return string(b[:])
}

// parseTraceparent reads version 00, and from later versions the fields that version 00 has.
func parseTraceparent(h string) (sc trace.SpanContextConfig, ok bool) {
	if len(h) < 55 || h[2] != '-' || h[35] != '-' || h[52] != '-' {
		return sc, false
	}
	var version, flags [1]byte
	if !unhex(version[:], h[:2]) || version[0] == 0xff || !unhex(flags[:], h[53:55]) {
		return sc, false
	}
	if len(h) > 55 && (version[0] == 0 || h[55] != '-') {
		return sc, false
	}
	if !unhex(sc.TraceID[:], h[3:35]) || !unhex(sc.SpanID[:], h[36:52]) {
		return sc, false
	}
	sc.TraceFlags = trace.TraceFlags(flags[0]) & keptFlags
	return sc, sc.TraceID.IsValid() && sc.SpanID.IsValid()
}

// Limits of tracestate (Trace Context Level 2, 3.3.2). A list within them has at most 16 KiB.
const (
	maxMembers = 32
	maxKey     = 256 // bytes
	maxOpaque  = 256 // bytes of a value
)

// parseTracestate reads the list of all headers together (RFC 9110, 5.3) by the grammar of level 2. Empty members are
// skipped. Of members with one key the first is kept: W3C allows to remove the others (3.5). A list with a member that
// is not valid, or with too many, is discarded.
//
// The TraceState of OpenTelemetry only takes keys of level 1 (as of v1.47). If there are others, all is the whole list,
// and the TraceState has the other members; else all is empty.
func parseTracestate(headers []string) (state trace.TraceState, all string) {
	if len(headers) == 0 {
		return state, ""
	}
	var members, keys [maxMembers]string
	found, kept := 0, 0
	for _, h := range headers {
		for m := range strings.SplitSeq(h, ",") {
			if m = strings.Trim(m, " \t"); m == "" {
				continue
			}
			key, value, ok := strings.Cut(m, "=")
			if found++; !ok || found > maxMembers || !isStateKey(key) || !isStateValue(value) {
				return trace.TraceState{}, ""
			}
			if !slices.Contains(keys[:kept], key) {
				members[kept], keys[kept] = m, key
				kept++
			}
		}
	}
	all = strings.Join(members[:kept], ",")
	state, err := trace.ParseTraceState(all)
	if err == nil {
		return state, ""
	}
	old := slices.DeleteFunc(members[:kept], func(m string) bool {
		_, err := trace.ParseTraceState(m)
		return err != nil
	})
	state, _ = trace.ParseTraceState(strings.Join(old, ",")) // each of them is valid, and none is there twice
	return state, all
}

// isStateKey reports whether s is a key of tracestate. It is not in level 1, which has tenants.
func isStateKey(s string) bool {
	if s == "" || len(s) > maxKey {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '-' || c == '*' || c == '/' || c == '@'):
		default:
			return false
		}
	}
	return true
}

// isStateValue reports whether s, which does not end with a blank, is a value of tracestate.
func isStateValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == ',' || c == '=' {
			return false
		}
	}
	return s != "" && len(s) <= maxOpaque
}

// A wholeState is a tracestate that the TraceState of OpenTelemetry cannot hold. It is in the context of the request
// that had it.
type wholeState struct {
	trace trace.TraceID
	part  string // what the TraceState holds of it
	all   string
}

type wholeStateKey struct{}

// stateOf returns the tracestate to send: the whole one, unless the span context is that of another trace or its
// TraceState was changed.
func stateOf(ctx context.Context, sc trace.SpanContext) string {
	state := sc.TraceState().String()
	if w, ok := ctx.Value(wholeStateKey{}).(*wholeState); ok && w.trace == sc.TraceID() && w.part == state {
		return w.all
	}
	return state
}

// extractB3 reads the single header or, if that is missing or invalid, the X-B3 headers. Invalid ids are zero.
func extractB3(c propagation.TextMapCarrier) (trace.SpanContextConfig, decision) {
	if h := b3Single.one(c); h != "" {
		if sc, d, ok := parseB3(h); ok {
			return sc, d
		}
	}
	tid, sid := b3Trace.one(c), b3Span.one(c)
	sampled := b3Sampled.one(c)
	if b3Flags.one(c) == "1" {
		sampled = "d"
	}
	if tid == "" && sid == "" && sampled == "" {
		return trace.SpanContextConfig{}, undecided
	}
	sc, d, _ := b3Context(tid, sid, sampled)
	return sc, d
}

// parseB3 reads trace-span, trace-span-state, trace-span-state-parent, or only state.
func parseB3(h string) (trace.SpanContextConfig, decision, bool) {
	parts := strings.SplitN(h, "-", 5)
	if len(parts) == 1 {
		sc, d, _ := b3Context("", "", h)
		return sc, d, d == deny || d == accept
	}
	if len(parts) > 4 {
		return trace.SpanContextConfig{}, undecided, false
	}
	state := ""
	if len(parts) > 2 {
		state = parts[2]
	}
	return b3Context(parts[0], parts[1], state)
}

// b3Context reads ids and state. ok reports whether the ids are valid; if not, d may still be accept or deny.
func b3Context(tid, sid, state string) (sc trace.SpanContextConfig, d decision, ok bool) {
	switch state {
	case "1", "true", "d":
		d, sc.TraceFlags = accept, trace.FlagsSampled
	case "0", "false":
		d = deny
	case "":
		d = deferred
	default:
		return sc, undecided, false
	}
	half := max(0, 16-len(tid)/2) // an id of 64 bits is the lower half
	ok = (len(tid) == 16 || len(tid) == 32) && unhex(sc.TraceID[half:], tid) && unhex(sc.SpanID[:], sid) &&
		sc.TraceID.IsValid() && sc.SpanID.IsValid()
	if !ok {
		sc = trace.SpanContextConfig{}
		if d == deferred {
			d = undecided
		}
	}
	return sc, d, ok
}

// unhex decodes exactly len(dst) bytes of lower-case hex.
func unhex(dst []byte, s string) bool {
	if len(s) != 2*len(dst) {
		return false
	}
	for i := range dst {
		hi, lo := nibble(s[2*i]), nibble(s[2*i+1])
		if hi|lo > 0xf {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func nibble(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}
