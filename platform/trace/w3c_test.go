package trace_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"bijou.dev/platform/memnet"
	"bijou.dev/platform/trace"
)

// w3cCase is a request with header lines as they are on the wire, and the context of the calls that it leads to.
type w3cCase struct {
	section string // of W3C Trace Context Level 2
	name    string
	lines   []string
	trace   string // the trace id of the calls; empty: a new one
	flags   string // of the calls; empty: those of a new trace, which is random and sampled
	state   string // tracestate of the calls; empty: none
}

const (
	inSampled   = "traceparent: " + good
	inUnsampled = "traceparent: 00-" + tid + "-" + sid + "-00"
)

// TestW3CTraceContext sends requests to an HTTP server, as another system would, and reads what that server sends to
// the next one.
func TestW3CTraceContext(t *testing.T) {
	k256, k257 := strings.Repeat("z", 256), strings.Repeat("z", 257)
	v256, v257 := strings.Repeat("v", 256), strings.Repeat("v", 257)
	keyChars := "abcdefghijklmnopqrstuvwxyz0123456789_-*/@"
	var valueChars strings.Builder
	for c := byte(0x20); c <= 0x7e; c++ {
		if c != ',' && c != '=' {
			valueChars.WriteByte(c)
		}
	}
	begun := func(section, name string, lines ...string) w3cCase {
		return w3cCase{section: section, name: name, lines: lines}
	}
	kept := func(section, name, flags string, lines ...string) w3cCase {
		return w3cCase{section: section, name: name, lines: lines, trace: tid, flags: flags}
	}
	// state is a case with a valid traceparent that is not sampled, and lines of tracestate.
	state := func(section, name, want string, values ...string) w3cCase {
		c := w3cCase{section: section, name: name, lines: []string{inUnsampled}, trace: tid, flags: "00", state: want}
		for _, v := range values {
			c.lines = append(c.lines, "tracestate:"+v)
		}
		return c
	}
	parent := func(s string) string { return "traceparent: " + s }
	cases := []w3cCase{
		begun("3.4", "a request without a context"),
		kept("3.4", "a context without state", "01", inSampled),

		kept("3.2.1", "mixed case in the name traceparent", "01", "TraceParent: "+good),
		kept("3.2.1", "changing case in the name traceparent", "01", "tRaCePaReNt: "+good),
		kept("3.2.1", "the name traceparent in upper case", "01", "TRACEPARENT: "+good),
		begun("3.2.1", "a dash in the name traceparent", "trace-parent: "+good),
		begun("3.2.1", "a dot in the name traceparent", "trace.parent: "+good),
		begun("3.2.2", "two traceparents", inSampled, parent("00-"+tid[1:]+"7-"+sid+"-01")),
		begun("3.2.2", "one traceparent twice", inSampled, inSampled),
		begun("3.2.2", "two traceparents in one line", parent(good+","+good)),
		begun("3.2.2", "an empty traceparent", "traceparent:"),
		kept("3.2.2", "a space before traceparent", "01", "traceparent:  "+good),
		kept("3.2.2", "a tab before traceparent", "01", "traceparent:\t"+good),
		kept("3.2.2", "a space after traceparent", "01", inSampled+" "),
		kept("3.2.2", "a tab after traceparent", "01", inSampled+"\t"),
		kept("3.2.2", "blanks around traceparent", "01", "traceparent:\t "+good+" \t"),
		begun("3.2.2", "underscores for dashes", parent(strings.ReplaceAll(good, "-", "_"))),

		begun("3.2.2.1", "version ff", parent("ff"+good[2:])),
		begun("3.2.2.1", "version with a dot first", parent(".0"+good[2:])),
		begun("3.2.2.1", "version with a dot last", parent("0."+good[2:])),
		begun("3.2.2.1", "version in upper case", parent("CC"+good[2:])),
		begun("3.2.2.1", "version of three digits", parent("0"+good)),
		begun("3.2.2.1", "version of four digits", parent("00"+good)),
		begun("3.2.2.1", "version of one digit", parent(good[1:])),
		begun("3.2.2.2", "version 00 with a character more", parent(good+".")),
		begun("3.2.2.2", "version 00 with a field more", parent(good+"-more")),
		begun("3.2.2.2", "version 00 with a dash more", parent(good+"-")),

		begun("3.2.2.3", "a trace id of zeroes", parent("00-"+strings.Repeat("0", 32)+"-"+sid+"-01")),
		begun("3.2.2.3", "a trace id with a dot first", parent("00-."+tid[1:]+"-"+sid+"-01")),
		begun("3.2.2.3", "a trace id with a dot last", parent("00-"+tid[1:]+".-"+sid+"-01")),
		begun("3.2.2.3", "a trace id in upper case", parent("00-"+strings.ToUpper(tid)+"-"+sid+"-01")),
		begun("3.2.2.3", "a trace id of 33 digits", parent("00-"+tid+"7-"+sid+"-01")),
		begun("3.2.2.3", "a trace id of 31 digits", parent("00-"+tid[1:]+"-"+sid+"-01")),
		begun("3.2.2.4", "a parent id of zeroes", parent("00-"+tid+"-0000000000000000-01")),
		begun("3.2.2.4", "a parent id with a dot first", parent("00-"+tid+"-."+sid[1:]+"-01")),
		begun("3.2.2.4", "a parent id with a dot last", parent("00-"+tid+"-"+sid[1:]+".-01")),
		begun("3.2.2.4", "a parent id in upper case", parent("00-"+tid+"-"+strings.ToUpper(sid)+"-01")),
		begun("3.2.2.4", "a parent id of 17 digits", parent("00-"+tid+"-"+sid+"7-01")),
		begun("3.2.2.4", "a parent id of 15 digits", parent("00-"+tid+"-"+sid[1:]+"-01")),

		begun("3.2.2.5", "flags with a dot first", parent("00-"+tid+"-"+sid+"-.0")),
		begun("3.2.2.5", "flags with a dot last", parent("00-"+tid+"-"+sid+"-0.")),
		begun("3.2.2.5", "flags in upper case", parent("00-"+tid+"-"+sid+"-0A")),
		begun("3.2.2.5", "flags of three digits", parent("00-"+tid+"-"+sid+"-001")),
		begun("3.2.2.5", "flags of one digit", parent("00-"+tid+"-"+sid+"-1")),
		kept("3.2.2.5.1", "not sampled", "00", inUnsampled),
		kept("3.2.2.5.2", "a random trace id", "02", parent("00-"+tid+"-"+sid+"-02")),
		kept("3.2.2.5.2", "a random trace id, sampled", "03", parent("00-"+tid+"-"+sid+"-03")),
		kept("3.2.2.5.3", "flags that are not defined", "00", parent("00-"+tid+"-"+sid+"-fc")),
		kept("3.2.2.5.3", "all flags", "03", parent("00-"+tid+"-"+sid+"-ff")),

		kept("3.2.4", "version cc", "01", parent("cc"+good[2:])),
		kept("3.2.4", "version 01", "01", parent("01"+good[2:])),
		kept("3.2.4", "version fe with a random trace id", "03", parent("fe-"+tid+"-"+sid+"-03")),
		kept("3.2.4", "version cc with more fields", "01", parent("cc"+good[2:]+"-what-comes.later")),
		kept("3.2.4", "version cc with an empty field", "01", parent("cc"+good[2:]+"-")),
		begun("3.2.4", "version cc with more after a dot", parent("cc"+good[2:]+".later")),
		begun("3.2.4", "version cc with more after a digit", parent("cc"+good[2:]+"0-later")),
		begun("3.2.4", "version cc, too short", parent("cc"+good[2:54])),
		begun("3.2.4", "version cc with a trace id of zeroes", parent("cc-"+strings.Repeat("0", 32)+"-"+sid+"-01")),

		begun("3.3", "state without traceparent", "tracestate: foo=1"),
		begun("3.3", "state of a traceparent that is not valid", parent("00-x"), "tracestate: foo=1"),
		begun("3.3", "state of two traceparents", inSampled, inSampled, "tracestate: foo=1"),
		state("3.3", "two members", "foo=1,bar=2", "foo=1,bar=2"),
		{"3.3", "state before traceparent", []string{"tracestate: foo=1", inSampled}, tid, "01", "foo=1"},
		{"3.3.5", "state of version cc", []string{parent("cc" + good[2:]), "tracestate: foo=1"}, tid, "01", "foo=1"},
		{"3.3.1", "mixed case in the name tracestate", []string{inSampled, "TraceState: foo=1"}, tid, "01", "foo=1"},
		{"3.3.1", "changing case in the name tracestate", []string{inSampled, "tRaCeStAtE: foo=1"}, tid, "01", "foo=1"},
		{"3.3.1", "the name tracestate in upper case", []string{inSampled, "TRACESTATE: foo=1"}, tid, "01", "foo=1"},
		kept("3.3.1", "a dash in the name tracestate", "01", inSampled, "trace-state: foo=1"),
		kept("3.3.1", "a dot in the name tracestate", "01", inSampled, "trace.state: foo=1"),

		state("3.3.2", "three lines, in order", "foo=1,bar=2,rojo=1,congo=2,baz=3", "foo=1,bar=2", "rojo=1,congo=2", "baz=3"),
		state("3.3.2", "an empty line", "", ""),
		state("3.3.2", "an empty line last", "foo=1", "foo=1", ""),
		state("3.3.2", "an empty line first", "foo=1", "", "foo=1"),
		state("3.3.2 list", "empty members", "foo=1,bar=2", ",foo=1,,bar=2,"),
		state("3.3.2 list", "blank members", "foo=1,bar=2", "foo=1, ,\t,bar=2 , \t"),
		state("3.3.2 list", "only empty members", "", ",,,"),
		state("3.3.2 list", "blanks around commas", "foo=1,bar=2,baz=3", "foo=1 \t , \t bar=2, \t baz=3"),
		state("3.3.2 list", "more blanks around commas", "foo=1,bar=2,baz=3", "foo=1\t \t,\t \tbar=2,\t \tbaz=3"),
		state("3.3.2 list", "a space first", "foo=1", "  foo=1"),
		state("3.3.2 list", "a tab first", "foo=1", "\tfoo=1"),
		state("3.3.2 list", "a space last", "foo=1", "foo=1 "),
		state("3.3.2 list", "a tab last", "foo=1", "foo=1\t"),
		state("3.3.2 list", "blanks around", "foo=1", "\t foo=1 \t"),
		state("3.3.2 list", "32 members", members(32, "k%d=1"), members(32, "k%d=1")),
		state("3.3.2 list", "32 members in four lines", members(32, "k%d=1"), split(members(32, "k%d=1"), 4)...),
		state("3.3.2 list", "33 members", "", members(33, "k%d=1")),
		state("3.3.2 list", "33 members in four lines", "", split(members(33, "k%d=1"), 4)...),
		state("3.3.2 list", "32 members of the largest size", members(32, strings.Repeat("k", 254)+"%02d="+v256),
			members(32, strings.Repeat("k", 254)+"%02d="+v256)),

		state("3.3.2 key", "all characters", keyChars+"=1", keyChars+"=1"),
		state("3.3.2 key", "a tenant", "fw529a3039@dt=1", "fw529a3039@dt=1"),
		state("3.3.2 key", "a digit first", "0day=1,bar=2", "0day=1,bar=2"),
		state("3.3.2 key", "one digit", "7=1", "7=1"),
		state("3.3.2 key", "an at sign last", "foo@=1,bar=2", "foo@=1,bar=2"),
		state("3.3.2 key", "two at signs together", "foo@@bar=1,bar=2", "foo@@bar=1,bar=2"),
		state("3.3.2 key", "two at signs", "foo@bar@baz=1,bar=2", "foo@bar@baz=1,bar=2"),
		state("3.3.2 key", "keys of level 2 only", "foo@=1,7@=2", "foo@=1", "7@=2"),
		state("3.3.2 key", "256 characters", "foo=1,"+k256+"=1", "foo=1", k256+"=1"),
		state("3.3.2 key", "257 characters", "", "foo=1", k257+"=1"),
		state("3.3.2 key", "a tenant of 241 and a system of 14", "foo=1,"+k256[:241]+"@"+k256[:14]+"=1",
			"foo=1", k256[:241]+"@"+k256[:14]+"=1"),
		state("3.3.2 key", "a tenant of 242 characters", "foo=1,"+k256[:242]+"@v=1", "foo=1", k256[:242]+"@v=1"),
		state("3.3.2 key", "a system of 15 characters", "foo=1,t@"+k256[:15]+"=1", "foo=1", "t@"+k256[:15]+"=1"),
		state("3.3.2 key", "an at sign first", "", "@foo=1,bar=2"),
		state("3.3.2 key", "an underscore first", "", "_foo=1,bar=2"),
		state("3.3.2 key", "a space before the equals sign", "", "foo =1"),
		state("3.3.2 key", "a space inside", "", "fo o=1"),
		state("3.3.2 key", "upper case", "", "FOO=1"),
		state("3.3.2 key", "a dot", "", "foo.bar=1"),
		state("3.3.2 key", "not ASCII", "", "fo\u00f6=1"),
		state("3.3.2 key", "empty", "", "=1,bar=2"),

		state("3.3.2 value", "all characters", "foo="+valueChars.String(), "foo="+valueChars.String()),
		state("3.3.2 value", "256 characters", "foo="+v256, "foo="+v256),
		state("3.3.2 value", "257 characters", "", "foo="+v257+",bar=2"),
		state("3.3.2 value", "spaces before it belong to it", "foo=  1,bar= 2", "foo=  1,bar= 2"),
		state("3.3.2 value", "spaces after it do not belong to it", "foo=1,bar=2", "foo=1  ,bar=2"),
		state("3.3.2 value", "spaces inside", "foo=a b", "foo=a b"),
		state("3.3.2 value", "an equals sign", "", "foo=bar=baz"),
		state("3.3.2 value", "empty", "", "foo=,bar=3"),
		state("3.3.2 value", "only spaces", "", "foo=  ,bar=3"),
		state("3.3.2 value", "a tab inside", "", "foo=a\tb"),
		state("3.3.2 value", "not ASCII", "", "foo=\u00f6"),
		state("3.3.2 value", "no equals sign", "", "foo,bar=2"),

		state("3.5", "a key twice with one value", "foo=1", "foo=1,foo=1"),
		state("3.5", "a key twice with two values", "foo=1", "foo=1,foo=2"),
		state("3.5", "a key in two lines with one value", "foo=1,bar=2", "foo=1", "bar=2,foo=1"),
		state("3.5", "a key in two lines with two values", "foo=1", "foo=1", "foo=2"),
		state("3.5", "a key of level 2 twice", "7=1,foo=1", "7=1", "foo=1,7=2"),
	}
	recorded := newProvider(t, trace.Options{Exporter: keep{tracetest.NewInMemoryExporter()}})
	for provider, p := range map[string]*trace.Provider{"recording": recorded, "discarding": trace.Discard()} {
		h := newHop(t, p)
		for _, c := range cases {
			t.Run(provider+"/"+c.section+"/"+c.name, func(t *testing.T) {
				calls := h.send(t, c.lines, 3)
				want := c
				if want.flags == "" {
					want.flags = "03"
				}
				if p != recorded { // nothing is recorded, and the flag says so (3.2.2.5.1)
					want.flags = map[string]string{"00": "00", "01": "00", "02": "02", "03": "02"}[want.flags]
				}
				assertCalls(t, want, calls)
			})
		}
	}
}

// split puts the members of a list into n lines.
func split(list string, n int) (lines []string) {
	all := strings.Split(list, ",")
	for chunk := range slices.Chunk(all, (len(all)+n-1)/n) {
		lines = append(lines, strings.Join(chunk, ","))
	}
	return lines
}

var sentParent = regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$`)

// assertCalls checks the header of all calls that one request led to.
func assertCalls(t *testing.T, want w3cCase, calls []http.Header) {
	t.Helper()
	traces, parents := map[string]bool{}, map[string]bool{}
	for _, h := range calls {
		if len(h["Traceparent"]) != 1 {
			t.Fatalf("the call has traceparent %q, want one", h["Traceparent"])
		}
		fields := sentParent.FindStringSubmatch(h["Traceparent"][0])
		if fields == nil {
			t.Fatalf("the call has traceparent %q, want version 00", h["Traceparent"][0])
		}
		traces[fields[1]], parents[fields[2]] = true, true
		if fields[3] != want.flags {
			t.Errorf("the call has flags %s, want %s", fields[3], want.flags)
		}
		if got := strings.Join(h["Tracestate"], " and "); got != want.state {
			t.Errorf("the call has tracestate\n%s\nwant\n%s", got, want.state)
		}
	}
	if len(traces) != 1 || len(parents) != len(calls) || parents[sid] || parents[strings.Repeat("0", 16)] {
		t.Errorf("%d calls have the traces %v and parents %v, want one trace, and parents that differ", len(calls), traces,
			parents)
	}
	for id := range traces {
		taken := strings.Contains(id, tid[1:31]) || id == strings.Repeat("0", 32)
		if want.trace == "" && taken || want.trace != "" && id != want.trace {
			t.Errorf("the calls have trace %s, want %q (empty: a new one)", id, want.trace)
		}
	}
}

// hop is a server that, for each request, calls another server some times.
type hop struct {
	net   *memnet.Network
	calls chan http.Header // that the other server got
}

func newHop(t *testing.T, p *trace.Provider) *hop {
	h := &hop{net: memnet.New(), calls: make(chan http.Header, 3)}
	client := &http.Client{Transport: &http.Transport{DialContext: h.net.DialContext}}
	t.Cleanup(client.CloseIdleConnections)
	h.listen(t, "next:80", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { h.calls <- r.Header }))
	h.listen(t, "hop:80", p.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range cap(h.calls) {
			ctx, span := p.Tracer().Start(r.Context(), "call")
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://next", nil)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			p.Propagator().Inject(ctx, propagation.HeaderCarrier(req.Header))
			res, err := client.Do(req)
			span.End()
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			_ = res.Body.Close()
		}
	})))
	return h
}

func (h *hop) listen(t *testing.T, addr string, handler http.Handler) {
	t.Helper()
	l, err := h.net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// send sends a request with lines of the header as they are, and returns the header of the calls that followed.
func (h *hop) send(t *testing.T, lines []string, calls int) (headers []http.Header) {
	t.Helper()
	conn, err := h.net.DialContext(context.Background(), "tcp", "hop:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask(t, conn, lines)
	for range calls {
		headers = append(headers, <-h.calls)
	}
	return headers
}

func ask(t *testing.T, conn net.Conn, lines []string) {
	t.Helper()
	request := "POST / HTTP/1.1\r\nHost: hop\r\nContent-Length: 0\r\nConnection: close\r\n"
	for _, line := range lines {
		request += line + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("the server did not respond to\n%s%v", request, err)
	}
	text, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("the server responded with %s to\n%s\n%s", res.Status, request, text)
	}
}
