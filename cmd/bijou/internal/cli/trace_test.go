package cli_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"bijou.dev/cmd/bijou/internal/cli"
	"github.com/google/go-cmp/cmp"
)

// spanJSON is a span as Zipkin writes it, with times in microseconds.
func spanJSON(trace, id, service, name string, start, duration int) string {
	return fmt.Sprintf(`{"traceId":%q,"id":%q,"name":%q,"kind":"SERVER","timestamp":%d,"duration":%d,`+
		`"localEndpoint":{"serviceName":%q}}`, trace, id, name, start, duration, service)
}

func TestFlagsOfTraceAreTheQuery(t *testing.T) {
	for flags, want := range map[string]string{
		"":                   "limit=20&lookback=900000",
		"-n 5 --since 1h":    "limit=5&lookback=3600000",
		"-s web --span get":  "limit=20&lookback=900000&serviceName=web&spanName=get",
		"-e":                 "annotationQuery=error&limit=20&lookback=900000",
		"-q http.method=GET": "annotationQuery=http.method%3DGET&limit=20&lookback=900000",
		"-e -q a=b":          "annotationQuery=a%3Db+and+error&limit=20&lookback=900000",
		"--min 1ms --max 2s": "limit=20&lookback=900000&maxDuration=2000000&minDuration=1000",
	} {
		t.Run(flags, func(t *testing.T) {
			p := (&platform{traces: "[]"}).start(t)
			p.expect(t, cli.ExitOK, "no traces match; --since looks further back\n",
				append([]string{"trace"}, strings.Fields(flags)...)...)
			if diff := cmp.Diff([]string{"/api/v2/traces?" + want}, p.requests); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTracesAreListedNewestFirst(t *testing.T) {
	p := (&platform{traces: "[[" + spanJSON("a1", "1", "web", "old", 1_000_000, 5) + "],[],[" +
		spanJSON("b2", "2", "web", "new", 2_000_000, 1500) + "," +
		spanJSON("b2", "3", "映画", "child", 2_000_100, 5) + "]]"}).start(t)
	out := p.expect(t, cli.ExitOK, "", "trace")
	var got [][]string
	for _, row := range rows(out)[1:] {
		got = append(got, append(row[:1], row[2:]...)) // without the time of day, which depends on the time zone
	}
	want := [][]string{{"b2", "1.5ms", "2", "2", "web", "new"}, {"a1", "5µs", "1", "1", "web", "old"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("traces (-want +got):\n%s", diff)
	}
	if out := p.expect(t, cli.ExitOK, "", "trace", "--json"); out != p.traces+"\n" {
		t.Errorf("with --json it prints\n%s\nwant the answer of the trace store", out)
	}
}

func TestATraceThatDoesNotExistIsNotFound(t *testing.T) {
	missing := (&platform{zipkin: http.NotFound}).start(t)
	empty := (&platform{traces: "[]"}).start(t)
	for _, p := range []*platform{missing, empty} {
		for _, flags := range [][]string{nil, {"--json"}, {"--why"}, {"--with", "cd"}} {
			if out := p.expect(t, cli.ExitNotFound, "trace", append([]string{"trace", "ab"}, flags...)...); out != "" {
				t.Errorf("with %v it prints %q, want nothing", flags, out)
			}
		}
	}
}

func TestATraceIsDrawn(t *testing.T) {
	p := (&platform{traces: "[" + spanJSON("ab", "1", "web", "GET /", 1_000_000, 2000) + "]"}).start(t)
	out := p.expect(t, cli.ExitOK, "", "trace", "AB")
	if lines := rows(out); len(lines) != 3 || !cmp.Equal(lines[0][:6], strings.Fields("trace ab 1 spans 1 services")) ||
		!cmp.Equal(lines[2][:4], strings.Fields("web GET / 2.0ms")) {
		t.Errorf("it prints\n%s\nwant a heading and a line for the span", out)
	}
	if diff := cmp.Diff([]string{"/api/v2/trace/ab"}, p.requests); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestTwoTracesAreComparedByOperation(t *testing.T) {
	p := (&platform{zipkin: func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/v2/trace/a":
			fmt.Fprint(w, "["+spanJSON("a", "1", "web", "get", 0, 100)+","+spanJSON("a", "2", "web", "get", 0, 200)+","+
				spanJSON("a", "3", "search", "find", 0, 50)+"]")
		case "/api/v2/trace/b":
			fmt.Fprint(w, "["+spanJSON("b", "1", "web", "get", 0, 5000)+","+spanJSON("b", "3", "catalog", "list", 0, 50)+"]")
		default:
			http.NotFound(w, r)
		}
	}}).start(t)
	want := [][]string{
		{"OPERATION", "SPANS", "A", "SPANS", "B", "TIME", "A", "TIME", "B", "DIFFERENCE"},
		{"web", "get", "server", "2", "1", "300µs", "5ms", "4.7ms"},
		{"catalog", "list", "server", "0", "1", "0s", "50µs", "50µs"},
		{"search", "find", "server", "1", "0", "50µs", "0s", "-50µs"},
	}
	if diff := cmp.Diff(want, rows(p.expect(t, cli.ExitOK, "", "trace", "a", "--with", "b"))); diff != "" {
		t.Errorf("the comparison (-want +got):\n%s", diff)
	}
	out := p.expect(t, cli.ExitOK, "", "trace", "a", "--with", "b", "--json")
	if !strings.Contains(out, `"tookB": 5000`) {
		t.Errorf("with --json it prints\n%s\nwant the operations", out)
	}
	p.expect(t, cli.ExitNotFound, "trace c: the trace store does not have it", "trace", "a", "--with", "c")
}

func TestDependencies(t *testing.T) {
	p := (&platform{traces: `[{"parent":"web","child":"catalog","callCount":12,"errorCount":3},
		{"parent":"gateway","child":"web","callCount":4}]`}).start(t)
	want := [][]string{
		{"CALLER", "CALLEE", "CALLS", "ERRORS"}, {"web", "catalog", "12", "3"}, {"gateway", "web", "4", "0"},
	}
	if diff := cmp.Diff(want, rows(p.expect(t, cli.ExitOK, "", "trace", "--deps", "--since", "1h"))); diff != "" {
		t.Errorf("the links (-want +got):\n%s", diff)
	}
	asked, err := url.Parse(p.requests[0])
	if err != nil || asked.Path != "/api/v2/dependencies" || asked.Query().Get("lookback") != "3600000" {
		t.Errorf("the request is %s (%v), want the dependencies of an hour", p.requests[0], err)
	}
	if out := p.expect(t, cli.ExitOK, "", "trace", "--deps", "--json"); out != p.traces+"\n" {
		t.Errorf("with --json it prints\n%s\nwant the answer of the trace store", out)
	}
}

func TestFailuresOfTheTraceStore(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		code   int
		want   string
	}{
		"bad query": {
			func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "limit must be at most 100", 400) },
			cli.ExitRefused, "asking for traces: limit must be at most 100\n",
		},
		"failure": {
			func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "disk", 500) },
			cli.ExitFailed, "asking for traces: 500 Internal Server Error: disk\n",
		},
		"no JSON": {
			func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
			cli.ExitFailed, "reading traces: invalid character",
		},
		"broken connection": {
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			cli.ExitUnreachable, "asking for traces: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := (&platform{zipkin: test.answer}).start(t)
			for _, args := range [][]string{{"trace"}, {"trace", "--json"}, {"trace", "ab"}, {"trace", "--deps"}} {
				if out := p.expect(t, test.code, test.want, args...); out != "" {
					t.Errorf("%v prints %q, want nothing", args, out)
				}
			}
		})
	}
}
