package tracing_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"

	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/services/tracing"
	"bijou.dev/services/tracing/internal/span"
)

// onVolume returns options of a store on a volume in memory of 16 MiB.
func onVolume(o tracing.Options) tracing.Options {
	disk := &volume{FS: vfs.NewMem()}
	disk.free.Store(16 << 20)
	o.Dir = "traces"
	return tracing.WithFS(o, disk)
}

// ids returns the ids of the traces that a search finds, in order, without leading zeros.
func (s *server) ids(query string) (ids []string) {
	s.t.Helper()
	var traces [][]struct{ TraceID string }
	s.get("/api/v2/traces?"+query, &traces)
	for _, tr := range traces {
		ids = append(ids, strings.TrimLeft(tr[0].TraceID, "0"))
	}
	return ids
}

// around returns the parameters of a query for the hour around a time.
func around(at time.Time) string {
	return fmt.Sprintf("endTs=%d&lookback=%d", at.Add(30*time.Minute).UnixMilli(), time.Hour.Milliseconds())
}

// one returns a Zipkin request of one span.
func one(trace, id, parent, service string, at time.Time) string {
	if parent != "" {
		parent = fmt.Sprintf(`"parentId":%q,`, parent)
	}
	return fmt.Sprintf(`[{"traceId":%q,"id":%q,%s"kind":"SERVER","timestamp":%d,"duration":10,
		"localEndpoint":{"serviceName":%q}}]`, trace, id, parent, at.UnixMicro(), service)
}

// Every query has the same answer after a restart, and new spans join what was stored before it.
func TestQueriesAfterARestart(t *testing.T) {
	opts := onVolume(tracing.Options{})
	n, at := memnet.New(), time.Now().Add(-time.Hour)
	s := start(t, n, "a", opts)
	for i := range 5 {
		s.post(film(fmt.Sprintf("a%d", i), at.Add(time.Duration(i)*time.Minute), i%2 == 1))
	}
	paths := []string{
		"/api/v2/services", "/api/v2/spans?serviceName=web", "/api/v2/remoteServices?serviceName=web",
		"/api/v2/autocompleteValues?key=cloud.availability_zone", "/api/v2/traces?" + around(at), "/api/v2/trace/a1",
		"/api/v2/traces?annotationQuery=error&" + around(at), "/api/v2/dependencies?" + around(at),
		"/api/v2/traceMany?traceIds=a1,a4",
	}
	answers := func() map[string]any {
		all := make(map[string]any)
		for _, path := range paths {
			var v any
			s.get(path, &v)
			all[path] = v
		}
		return all
	}
	before := answers()
	for range 2 {
		s.stop()
		s = start(t, n, "a", opts)
		if diff := cmp.Diff(before, answers()); diff != "" {
			t.Errorf("answers after a restart (-before +after):\n%s", diff)
		}
	}
	s.post(one("a1", "9", "3", "mailer", at.Add(time.Minute)))
	var spans []any
	if s.get("/api/v2/trace/a1", &spans); len(spans) != 4 {
		t.Errorf("the trace has %d spans after one more was sent, want 4", len(spans))
	}
}

// Spans that come long after their trace, from another sender, join it in every query.
func TestLateSpansJoinTheirTrace(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	at := time.Now().Add(-10 * time.Hour)
	s.post(one("a1", "1", "", "web", at))
	s.post(film("b1", at.Add(2*time.Minute), false)) // another trace at the same time
	for i, late := range []time.Duration{time.Second, 4 * time.Minute, 2 * time.Hour, 9 * time.Hour} {
		s.post(one("a1", fmt.Sprint(i+2), "1", fmt.Sprint("late-", i), at.Add(late)))
	}
	var spans []struct{ ID string }
	if s.get("/api/v2/trace/a1", &spans); len(spans) != 5 || spans[0].ID != "0000000000000001" {
		t.Errorf("the trace is %v, want 5 spans, the root first", spans)
	}
	for query, want := range map[string][]string{
		"":                        {"b1", "a1"},
		"&serviceName=late-1":     {"a1"},
		"&serviceName=web":        {"b1", "a1"},
		"&serviceName=late-never": nil,
	} {
		if got := s.ids(around(at) + query); !slices.Equal(got, want) {
			t.Errorf("a search for the time of the root%s finds the traces %q, want %q", query, got, want)
		}
	}
	// The trace began ten hours ago, whenever its last span began.
	if got := s.ids(around(at.Add(9 * time.Hour))); got != nil {
		t.Errorf("a search for the time of the last span finds the traces %q, want none", got)
	}
	var links []struct{ Parent, Child string }
	s.get("/api/v2/dependencies?"+fmt.Sprintf("endTs=%d&lookback=%d", time.Now().UnixMilli(),
		(12*time.Hour).Milliseconds()), &links)
	var got []string
	for _, l := range links {
		got = append(got, l.Parent+" "+l.Child)
	}
	want := []string{"web catalog", "web late-0", "web late-1", "web late-2", "web late-3"}
	if !slices.Equal(got, want) {
		t.Errorf("the links are %q, want %q", got, want)
	}
}

// A span that is older than retention when it comes is refused, though its trace is still there.
func TestSpansPastRetentionAreRefused(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{Retention: time.Hour})
	now := time.Now()
	s.post(one("a1", "2", "1", "web", now.Add(-59*time.Minute)))
	s.post(one("a1", "1", "", "web", now.Add(-61*time.Minute)))
	var spans []struct{ ID string }
	if s.get("/api/v2/trace/a1", &spans); len(spans) != 1 || spans[0].ID != "0000000000000002" {
		t.Errorf("the trace is %v, want only the span within retention", spans)
	}
	for name, want := range map[string]float64{
		"spans_stored_total": 1, `spans_dropped_total{reason="expired"}`: 1, `spans_received_total{format="zipkin"}`: 2,
	} {
		if got := s.metric("bijou_tracing_" + name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// Spans are deleted when their bucket is past retention, oldest first, without any request.
func TestSpansAreDeletedAfterRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, memnet.New(), "a", onVolume(tracing.Options{Retention: time.Hour}))
		begin := time.Now().Truncate(15 * time.Minute).Add(15 * time.Minute)
		time.Sleep(time.Until(begin))
		for i := range 3 {
			s.post(one(fmt.Sprint("a", i), "1", "", "web", time.Now()))
			time.Sleep(15 * time.Minute)
		}
		for i := range 3 {
			// The bucket of trace i ends 15 minutes after it began, and is deleted an hour later.
			end := begin.Add(time.Duration(i+1)*15*time.Minute + time.Hour)
			time.Sleep(time.Until(end) - time.Second)
			want := []string{"a2", "a1", "a0"}[:3-i]
			if got := s.ids(""); !slices.Equal(got, want) {
				t.Errorf("before bucket %d is past retention the traces are %q, want %q", i, got, want)
			}
			time.Sleep(8 * time.Second)
			if got := s.ids(""); !slices.Equal(got, want[:len(want)-1]) {
				t.Errorf("after bucket %d is past retention the traces are %q, want %q", i, got, want[:len(want)-1])
			}
			if got := s.metric("bijou_tracing_buckets_expired_total"); got != float64(i+1) {
				t.Errorf("%v buckets are deleted, want %d", got, i+1)
			}
		}
		if got := s.metric("bijou_tracing_store_oldest_seconds"); got != 0 {
			t.Errorf("the oldest bucket of an empty store begins at %v, want 0", got)
		}
		s.post(one("b1", "1", "", "web", time.Now())) // an empty store accepts spans
		want := float64(time.Now().Truncate(15 * time.Minute).Unix())
		if got := s.metric("bijou_tracing_store_oldest_seconds"); got != want {
			t.Errorf("the oldest bucket begins at %v, want %v: the quarter of an hour of the only span", got, want)
		}
	})
}

// failing is a volume that fails to sync when broken is set.
type failing struct {
	volume
	broken atomic.Bool
}

func (f *failing) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return &failingFile{file, f}, err
}

func (f *failing) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, c)
	return &failingFile{file, f}, err
}

type failingFile struct {
	vfs.File
	disk *failing
}

func (f *failingFile) err() error {
	if f.disk.broken.Load() {
		return &os.PathError{Op: "sync", Path: "/traces/000004.log", Err: syscall.EIO}
	}
	return nil
}

func (f *failingFile) Sync() error { return errors.Join(f.err(), f.File.Sync()) }

func (f *failingFile) SyncData() error { return errors.Join(f.err(), f.File.SyncData()) }

func (f *failingFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	return full, errors.Join(f.err(), err)
}

// A disk that does not sync ends the process with the reason. Until then senders get 503 and may send again. Their
// answers do not have the text of the error.
func TestDiskThatFailsEndsTheProcess(t *testing.T) {
	n, disk := memnet.New(), &failing{volume: volume{FS: vfs.NewMem()}}
	disk.free.Store(16 << 20)
	p, err := service.New(t.Context(), service.Options{
		Name: "tracing", Instance: "a", Drain: 20 * time.Millisecond,
		Listen: map[string]string{"otlp": "a:4317", "otlphttp": "a:4318", "zipkin": "a:9411", "admin": "a:9090"},
		Net:    service.Net{Listen: n.Listen, DialContext: n.DialContext},
	}, func(ctx context.Context, setup *service.Setup) error {
		return tracing.New(ctx, setup, tracing.WithFS(tracing.Options{Dir: "traces"}, disk))
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(t.Context()) }()
	s := &server{Process: p, t: t, net: n, host: "a", client: memoryClient(n)}
	var health struct{ Status, Reason string }
	if s.get("/health", &health); health.Status != "UP" {
		t.Errorf("the health is %+v, want UP", health)
	}
	s.post(one("a1", "1", "", "web", time.Now()))
	disk.broken.Store(true)
	another := []byte(one("a2", "1", "", "web", time.Now()))
	resp, body := s.do("POST", "9411", "/api/v2/spans", "application/json", "", another)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || strings.Contains(body, "input/output") {
		t.Errorf("the answer is %s, retry after %q, %s; want 503, a time to retry, and no text of the disk",
			resp.Status, resp.Header.Get("Retry-After"), body)
	}
	err = <-done
	if err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("the process ends with the error %v, want the reason of the disk", err)
	}
}

// Queries select by each of their parameters, and by all of them together.
func TestFiltersOfASearch(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	for i, sp := range []string{
		`"name":"GET /films","duration":1000,"localEndpoint":{"serviceName":"web"},"tags":{"a":"1","b":"x=y"}`,
		`"name":"GET /films/{id}","duration":2000,"localEndpoint":{"serviceName":"web"},"tags":{"a":"2"}`,
		`"name":"get","localEndpoint":{"serviceName":"Catalog"},"remoteEndpoint":{"serviceName":"DB"},"tags":{"error":"no"}`,
		`"name":"get","duration":3000,"localEndpoint":{"serviceName":"web"},"annotations":[{"timestamp":1,"value":"retry"}]`,
	} {
		s.post(fmt.Sprintf(`[{"traceId":"c%d","id":"1","timestamp":%d,%s}]`, i, at.Add(time.Duration(i)*time.Minute).UnixMicro(), sp))
	}
	annotations := func(q string) string { return "annotationQuery=" + url.QueryEscape(q) }
	for query, want := range map[string][]string{
		"":                                        {"c3", "c2", "c1", "c0"},
		"limit=2":                                 {"c3", "c2"},
		"limit=1000":                              {"c3", "c2", "c1", "c0"},
		"serviceName=catalog":                     {"c2"},
		"serviceName=CATALOG":                     {"c2"},
		"serviceName=cat":                         nil,
		"spanName=get":                            {"c3", "c2"},
		"spanName=GET+%2Ffilms":                   {"c0"},
		"serviceName=web&spanName=get":            {"c3"},
		"remoteServiceName=db":                    {"c2"},
		"serviceName=web&remoteServiceName=db":    nil,
		"minDuration=2000":                        {"c3", "c1"},
		"minDuration=2001":                        {"c3"},
		"minDuration=2000&maxDuration=2000":       {"c1"},
		"maxDuration=1999":                        {"c0"},
		annotations("a=1"):                        {"c0"},
		annotations("a"):                          {"c1", "c0"},
		annotations("b=x=y"):                      {"c0"},
		annotations("a and b"):                    {"c0"},
		annotations("a=2 and b"):                  nil,
		annotations(" a  and  b=x=y "):            {"c0"},
		annotations("retry"):                      {"c3"},
		annotations("retry=x"):                    nil,
		annotations("error"):                      {"c2"},
		annotations("error=no"):                   {"c2"},
		annotations("error=yes"):                  nil,
		"serviceName=web&" + annotations("error"): nil,
	} {
		if got := s.ids(around(at) + "&" + query); !slices.Equal(got, want) {
			t.Errorf("the query %q finds the traces %q, want %q", query, got, want)
		}
	}
	// Both ends of the time count, to the millisecond.
	for _, tt := range []struct {
		end, lookback time.Duration
		want          []string
	}{
		{0, 0, []string{"c0"}},
		{-time.Millisecond, 0, nil},
		{time.Minute, time.Minute, []string{"c1", "c0"}},
		{time.Minute, time.Minute - time.Millisecond, []string{"c1"}},
		{time.Minute - time.Millisecond, time.Minute, []string{"c0"}},
	} {
		q := fmt.Sprintf("endTs=%d&lookback=%d", at.Add(tt.end).UnixMilli(), tt.lookback.Milliseconds())
		if got := s.ids(q); !slices.Equal(got, tt.want) {
			t.Errorf("%v after the first trace, looking back %v, a search finds %q, want %q", tt.end, tt.lookback, got, tt.want)
		}
	}
}

// Parameters that cannot work are refused, and the problem names each of them.
func TestParametersThatAreRefused(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	ids := strings.Repeat("1,", 1000)
	for i := range 1000 {
		ids += fmt.Sprintf("%x,", i+1)
	}
	for path, fields := range map[string][]string{
		"/api/v2/traces?limit=0":                      {"limit"},
		"/api/v2/traces?limit=1001":                   {"limit"},
		"/api/v2/traces?limit=ten":                    {"limit"},
		"/api/v2/traces?endTs=-1&lookback=-1":         {"endTs", "lookback"},
		"/api/v2/traces?endTs=9223372036854775808":    {"endTs"},
		"/api/v2/traces?minDuration=-1&maxDuration=x": {"minDuration", "maxDuration"},
		"/api/v2/traces?minDuration=2&maxDuration=1":  {"maxDuration"},
		"/api/v2/spans":                               {"serviceName"},
		"/api/v2/remoteServices?serviceName=":         {"serviceName"},
		"/api/v2/autocompleteValues":                  {"key"},
		"/api/v2/dependencies":                        {"endTs"},
		"/api/v2/dependencies?endTs=x":                {"endTs"},
		"/api/v2/dependencies?endTs=1&lookback=x":     {"lookback"},
		"/internal/walk":                              {"endTs"},
		"/api/v2/traceMany":                           {"traceIds"},
		"/api/v2/traceMany?traceIds=1,,2":             {"traceIds"},
		"/api/v2/traceMany?traceIds=" + ids + "ffff":  {"traceIds"},
		"/zipkin/api/v2/traces?limit=0":               {"limit"},
	} {
		resp, body := s.do("GET", "9411", path, "", "", nil)
		p := problem(t, resp, body)
		var got []string
		for _, f := range p.Errors {
			got = append(got, f.Field)
		}
		if resp.StatusCode != 400 || !slices.Equal(got, fields) {
			t.Errorf("GET %.60s: %s, the problem names %q, want 400 and %q", path, resp.Status, got, fields)
		}
	}
	var traces []any
	s.get("/api/v2/traceMany?traceIds="+strings.TrimSuffix(ids, ","), &traces) // a thousand ids, one of them often
	for path, status := range map[string]int{
		"/api/v2/trace/xyz": 400, "/api/v2/trace/0": 400, "/api/v2/trace/" + strings.Repeat("1", 33): 400,
		"/api/v2/trace/ffff": 404, "/api/v2/trace/": 404, "/api/v2/nothing": 404,
	} {
		resp, body := s.do("GET", "9411", path, "", "", nil)
		if resp.StatusCode != status || problem(t, resp, body).Detail == "" {
			t.Errorf("GET %s: %s %s, want %d and a problem that says why", path, resp.Status, body, status)
		}
	}
}

// A request without spans is accepted in each format: collectors send such requests to check the connection.
func TestRequestsWithoutSpans(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	for _, tt := range []struct {
		name, port, path, kind, body string
		status                       int
	}{
		{"Zipkin", "9411", "/api/v2/spans", "application/json", "[]", 202},
		{"OTLP", "4318", "/v1/traces", "application/x-protobuf", "", 200},
		{"OTLP JSON", "4318", "/v1/traces", "application/json", "{}", 200},
	} {
		if resp, body := s.do("POST", tt.port, tt.path, tt.kind, "", []byte(tt.body)); resp.StatusCode != tt.status {
			t.Errorf("%s: %s %s, want %d", tt.name, resp.Status, body, tt.status)
		}
	}
	if _, err := s.otlp().Export(t.Context(), nil); err != nil {
		t.Errorf("OTLP over gRPC: %v", err)
	}
}

// The metrics have the spans and the decompressed bytes that came in each format.
func TestReceivedSpansAndBytesAreCounted(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	at := time.Now()
	req := request("4bf92f3577b34da6a3ce929d0e0e4736", at)
	protobuf, inJSON := marshal(t, req), otlpJSON("4bf92f3577b34da6a3ce929d0e0e4736", at)
	inZipkin := film("a1", at, false)
	for _, encoding := range []string{"", "gzip"} {
		for _, tt := range []struct{ port, path, kind, body string }{
			{"9411", "/api/v2/spans", "application/json", inZipkin},
			{"4318", "/v1/traces", "application/x-protobuf", protobuf},
			{"4318", "/v1/traces", "application/json", inJSON},
		} {
			body := []byte(tt.body)
			if encoding == "gzip" {
				body = zip(body)
			}
			if resp, text := s.do("POST", tt.port, tt.path, tt.kind, encoding, body); resp.StatusCode >= 300 {
				t.Fatalf("posting %s: %s %s", tt.kind, resp.Status, text)
			}
		}
		if _, err := s.otlp().Export(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	for format, want := range map[string]struct{ spans, bytes int }{
		"zipkin": {6, 2 * len(inZipkin)}, "otlp_json": {2, 2 * len(inJSON)},
		"otlp_http": {2, 2 * len(protobuf)}, "otlp_grpc": {2, 2 * len(protobuf)},
	} {
		spans := s.metric(fmt.Sprintf(`bijou_tracing_spans_received_total{format=%q}`, format))
		bytes := s.metric(fmt.Sprintf(`bijou_tracing_received_bytes_total{format=%q}`, format))
		if spans != float64(want.spans) || bytes != float64(want.bytes) {
			t.Errorf("%s: %v spans and %v bytes are counted, want %d and %d", format, spans, bytes, want.spans, want.bytes)
		}
	}
}

// An answer of many traces ends with the trace that has the 100,000th span, and says that it is not complete.
func TestAnswersOfManySpansAreIncomplete(t *testing.T) {
	// In synctest no time passes while a query runs, so its time limit cannot expire on a slow machine.
	synctest.Test(t, func(t *testing.T) {
		s := start(t, memnet.New(), "a", tracing.Options{})
		const traces = 8 // of 16,384 spans
		var ids []string
		for i := range traces {
			req := spansInOTLP(span.MaxSpans)
			list := req.ResourceSpans[0].ScopeSpans[0].Spans
			for n := range list {
				list[n] = &otlp.Span{
					TraceId: append(make([]byte, 15), byte(i+1)), SpanId: binary.BigEndian.AppendUint64(nil, uint64(n+1)),
				}
			}
			resp, body := s.do("POST", "4318", "/v1/traces", "application/x-protobuf", "", []byte(marshal(t, req)))
			if resp.StatusCode != 200 || body != "" {
				t.Fatalf("posting spans: %s %q, want 200 and no span refused", resp.Status, body)
			}
			ids = append(ids, fmt.Sprint(i+1))
		}
		var got [][]struct{}
		resp := s.get("/api/v2/traceMany?traceIds="+strings.Join(ids, ","), &got)
		if incomplete := resp.Header.Get("Bijou-Incomplete"); len(got) != 7 || incomplete != "true" {
			t.Errorf("%d of %d traces, incomplete %q; want 7, which have 114,688 spans, and true", len(got), traces, incomplete)
		}
		if resp = s.get("/api/v2/trace/1", &[]any{}); resp.Header.Get("Bijou-Incomplete") != "" {
			t.Errorf("one trace of %d spans is incomplete", span.MaxSpans)
		}
	})
}
