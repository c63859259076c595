package cli_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"bijou.dev/cmd/bijou/internal/cli"
	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/load/loadtest"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"
)

// showMap runs `bijou map` against a circuits service that serves links.
func showMap(t *testing.T, links *circuitsv1.LinksResponse, flags ...string) string {
	t.Helper()
	p := (&platform{links: links}).start(t)
	out, problem, code := p.run(t, append([]string{"map"}, flags...)...)
	if code != cli.ExitOK {
		t.Fatalf("bijou map ended with %d: %s", code, problem)
	}
	return out
}

// TestMapShowsTheFiguresOfTheAPI has its twin in services/console: with the same input both show the same.
func TestMapShowsTheFiguresOfTheAPI(t *testing.T) {
	links := loadtest.Links(t)
	shown := &circuitsv1.LinksResponse{}
	if err := protojson.Unmarshal([]byte(showMap(t, links, "--json")), shown); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(links, shown, protocmp.Transform()); diff != "" {
		t.Errorf("bijou map --json (-served +shown):\n%s", diff)
	}
	var rows [][]string
	for line := range strings.Lines(showMap(t, links)) {
		rows = append(rows, strings.Fields(line))
	}
	want := [][]string{
		{"FROM", "TO", "CALLS/S", "ERRORS", "P50", "P99", "REJECTED/S", "FALLBACKS/S", "CIRCUITS"},
		{"INTERNET", "gateway", "41.2", "0.243%", "3.12ms", "901ms", "0.1", "0"},
		{"gateway", "web", "measuring", "closed"},
		{"web", "catalog", "12", "25%", "10.4ms", "203ms", "2", "3", "1", "not", "closed"},
		{"web", "search", "0.3", "100%", "-", "-", "0.3", "0", "2", "not", "closed"},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("bijou map (-want +got):\n%s", diff)
	}
}

func TestMapWithoutCalls(t *testing.T) {
	if got := showMap(t, &circuitsv1.LinksResponse{}); !strings.HasPrefix(got, "no calls yet") {
		t.Errorf("without links bijou map prints %q, want that there are no calls yet", got)
	}
}

func TestMapEscapesNamesFromOutside(t *testing.T) {
	links := &circuitsv1.LinksResponse{}
	for i := range 500 {
		links.Links = append(links.Links, &circuitsv1.Link{From: "a\x1b[2J", To: "größe-" + strings.Repeat("x", i)})
	}
	out := showMap(t, links)
	if strings.Contains(out, "\x1b") || strings.Count(out, "\n") != 501 || !strings.Contains(out, `a\x1b[2J`) {
		t.Errorf("500 links must be 500 lines below the heading, with control characters escaped; it prints\n%.300s", out)
	}
}

const routesJSON = `{"revision":3,"routes":[
	{"name":"api","match":{"host":"a.example","prefix":"/api","methods":["GET","POST"]},
	 "to":[{"service":"web","version":"1","weight":3},{"service":"web","version":"2","weight":1}]},
	{"name":"rest","match":{"path":"/"},"to":[{"service":"hello"}]},
	{"name":"off","match":{"path":"/x"},"to":[{"service":"a","weight":0},{"service":"b","weight":0}]}],
	"origins":[{"service":"web","instances":[
	 {"id":"web-1","zone":"a","version":"1","phase":"admitted","latencyMs":1.25,"pending":2},
	 {"id":"web-2","zone":"b","version":"2","phase":"ejected","reason":"5 failures\u001b[2J"}]}]}`

func TestRoutes(t *testing.T) {
	p := (&platform{admin: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/routes" {
			http.NotFound(w, r)
		}
		fmt.Fprint(w, routesJSON)
	}}).start(t)
	want := [][]string{
		{"ROUTE", "MATCHES", "SHARE", "TARGET"},
		{"api", "GET,POST", "a.example/api", "75%", "web", "1"},
		{"api", "GET,POST", "a.example/api", "25%", "web", "2"},
		{"rest", "/", "100%", "hello"},
		{"off", "/x", "0%", "a"},
		{"off", "/x", "0%", "b"},
		{},
		{"SERVICE", "INSTANCE", "STATE", "ZONE", "VERSION", "LATENCY", "PENDING", "REASON"},
		{"web", "web-1", "admitted", "a", "1", "1.3ms", "2"},
		{"web", "web-2", "ejected", "b", "2", "0s", "0", "5", `failures\x1b[2J`},
	}
	if diff := cmp.Diff(want, rows(p.expect(t, cli.ExitOK, "", "routes"))); diff != "" {
		t.Errorf("bijou routes (-want +got):\n%s", diff)
	}
	if out := p.expect(t, cli.ExitOK, "", "routes", "--json"); out != routesJSON+"\n" {
		t.Errorf("with --json it prints\n%s\nwant the answer of the gateway", out)
	}
}

func TestRoutesOfAGatewayThatFails(t *testing.T) {
	p := (&platform{admin: http.NotFound}).start(t)
	p.expect(t, cli.ExitFailed, "/routes: 404 Not Found", "routes")
	p.admin = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }
	p.expect(t, cli.ExitFailed, "reading routes: invalid character", "routes")
	p.admin = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	p.expect(t, cli.ExitUnreachable, "bijou: asking", "routes")
}
