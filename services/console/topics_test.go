package console_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/services/console"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("reading JSON: %v\n%s", err, text)
	}
}

// runAdmin serves fixed admin pages at NAME:9090: path -> body.
func (w *world) runAdmin(t *testing.T, name string, pages map[string]string) {
	t.Helper()
	l, err := w.net.Listen("tcp", name+":9090")
	if err != nil {
		t.Fatal(err)
	}
	s := http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(
		func(rw http.ResponseWriter, r *http.Request) {
			page, found := pages[r.URL.Path]
			if !found {
				http.NotFound(rw, r)
				return
			}
			fmt.Fprint(rw, page)
		},
	)}
	go func() { _ = s.Serve(l) }() // it returns when the test closes s
	t.Cleanup(func() { s.Close() })
}

type (
	fleet struct {
		LastKnown        bool
		Instances        []instance
		SelfPreservation struct{ Reason string }
	}
	instance struct {
		ID, Zone, Version, Status, Reported, Override, OverrideAuthor, OverrideReason string

		Started time.Time
		Admin   *admin
	}
	admin struct {
		OK                                bool
		Problem                           string
		Checks                            []check
		Revision, MemoryBytes, Goroutines *int64
	}
	check struct {
		Name, Reason string
		OK           bool
	}
)

// traffic is the topic traffic.
type traffic struct {
	Edges []struct {
		From, To string
		Versions map[string]float64
		Figures  struct{ CallsPerSecond float64 }
	}
}

func hasEdges(t traffic) bool { return len(t.Edges) > 0 }

func (f fleet) instance(id string) instance {
	for _, in := range f.Instances {
		if in.ID == id {
			return in
		}
	}
	return instance{}
}

// awaitListed waits until the console has each instance that the registry lists.
func (w *world) awaitListed(t *testing.T) {
	t.Helper()
	var want []string
	w.set(func() {
		for _, in := range w.list.Instances {
			want = append(want, in.Id)
		}
	})
	await(t, w.events(t), "fleet", func(f fleet) bool {
		return !slices.ContainsFunc(want, func(id string) bool { return f.instance(id).ID == "" })
	})
}

// awaitInstance reads events until the instance satisfies is.
func awaitInstance(t *testing.T, next func(string, any), id string, is func(instance) bool) instance {
	t.Helper()
	return await(t, next, "fleet", func(f fleet) bool { return is(f.instance(id)) }).instance(id)
}

func answers(in instance) bool { return in.Admin != nil && in.Admin.OK }
func isAway(in instance) bool  { return in.Admin != nil && !in.Admin.OK }

func TestKilledInstanceIsShownWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		stop := w.runCatalog(t, nil)
		next := w.events(t)
		if in := awaitInstance(t, next, "catalog-1", answers); len(in.Admin.Checks) == 0 {
			t.Errorf("the instance has no checks: %+v", in.Admin)
		}
		stop()
		stopped := time.Now()
		in := awaitInstance(t, next, "catalog-1", isAway)
		if took := time.Since(stopped); took > 2*time.Second {
			t.Errorf("the stopped instance was shown after %v, want at most 2 s", took)
		}
		if want := "it does not answer: no process listens at its address"; in.Admin.Problem != want {
			t.Errorf("the problem is %q, want %q", in.Admin.Problem, want)
		}
		w.runCatalog(t, nil)
		awaitInstance(t, next, "catalog-1", answers)
	})
}

func TestInstanceThatHangsIsShownAfterTwoTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		w.runCatalog(t, nil)
		next := w.events(t)
		awaitInstance(t, next, "catalog-1", answers)
		w.net.Cut("catalog")
		cut := time.Now()
		in := awaitInstance(t, next, "catalog-1", isAway)
		if took := time.Since(cut); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("the hanging instance was shown after %v, want the second timeout of 0.9 s", took)
		}
		if want := "it did not answer in time"; in.Admin.Problem != want {
			t.Errorf("the problem is %q, want %q", in.Admin.Problem, want)
		}
		w.net.Heal("catalog")
		awaitInstance(t, next, "catalog-1", answers)
	})
}

func TestInstanceIsShownAsTheRegistryListsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		started := time.Now().Add(-time.Minute).UTC()
		w.list = &discoveryv1.ListResponse{
			Instances: []*discoveryv1.Instance{{
				Service: "web", Id: "web-1", Zone: "a", Version: "2", Status: discoveryv1.Status_STATUS_OUT_OF_SERVICE,
				Reported: discoveryv1.Status_STATUS_UP, Override: discoveryv1.Status_STATUS_OUT_OF_SERVICE,
				OverrideAuthor: "ann", OverrideReason: "game day", Started: timestamppb.New(started),
			}},
			SelfPreservation: &discoveryv1.SelfPreservation{Active: true, Reason: "half of the leases ended"},
		}
		next := w.events(t)
		f := await(t, next, "fleet", func(f fleet) bool { return len(f.Instances) == 1 })
		want := instance{
			ID: "web-1", Zone: "a", Version: "2", Status: "OUT_OF_SERVICE", Reported: "UP", Override: "OUT_OF_SERVICE",
			OverrideAuthor: "ann", OverrideReason: "game day", Started: started,
		}
		if diff := cmp.Diff(want, f.Instances[0]); diff != "" || f.LastKnown {
			t.Errorf("lastKnown %t; the instance, which has no admin page (-want +got):\n%s", f.LastKnown, diff)
		}
		if f.SelfPreservation.Reason != "half of the leases ended" {
			t.Errorf("self-preservation is %+v", f.SelfPreservation)
		}
		w.set(func() { w.list = &discoveryv1.ListResponse{} })
		await(t, next, "fleet", func(f fleet) bool { return len(f.Instances) == 0 })
	})
}

func TestLastKnownInstancesAreShownWithoutARegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		w.runCatalog(t, nil)
		var f fleet
		code, _, text := w.do(t, "GET", "/api/state/fleet", "")
		if decode(t, text, &f); code != http.StatusOK || !f.LastKnown || len(f.Instances) != 1 ||
			f.Instances[0].ID != "catalog-1" {
			t.Errorf("status %d, the fleet is %+v; want catalog-1 as last known", code, f)
		}
	})
}

func TestUnknownMetricsAreNotShownAsZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		ready := `{"checks":[{"name":"listeners","ok":true}]}`
		w.runAdmin(t, "web-a", map[string]string{"/readyz": ready})
		w.runAdmin(t, "web-b", map[string]string{"/readyz": ready, "/metrics": "# TYPE go_goroutines gauge\n" +
			"go_goroutines 7\n# TYPE bijou_config_revision gauge\nbijou_config_revision 0\n"})
		w.register("web", "a", map[string]string{"admin": "web-a:9090"})
		w.register("web", "b", map[string]string{"admin": "web-b:9090"})
		zero, seven := int64(0), int64(7)
		for id, want := range map[string]admin{"a": {}, "b": {Goroutines: &seven, Revision: &zero}} {
			want.OK, want.Checks = true, []check{{Name: "listeners", OK: true}}
			in := awaitInstance(t, w.events(t), id, answers)
			if diff := cmp.Diff(want, *in.Admin); diff != "" {
				t.Errorf("instance %s (-want +got):\n%s", id, diff)
			}
		}
	})
}

func TestAdminPagesThatCannotBeReadAreNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.runAdmin(t, "web", nil)
		w.register("web", "web-1", map[string]string{"admin": "web:9090"})
		in := awaitInstance(t, w.events(t), "web-1", isAway)
		if want := "/readyz answered 404 Not Found"; in.Admin.Problem != want {
			t.Errorf("the problem is %q, want %q", in.Admin.Problem, want)
		}
	})
}

func TestChecksOfInstancesAreShownWithoutRawText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.store = errRaw
		in := awaitInstance(t, w.events(t), "config-1", answers)
		want := check{Name: "store", Reason: "waiting for the store"}
		for _, k := range in.Admin.Checks {
			if k.Name == "store" && k != want {
				t.Errorf("the check is %+v, want %+v", k, want)
			}
			assertPlain(t, "the reason of the check "+k.Name, k.Reason)
		}
	})
}

func TestRoutesAreThoseOfTheGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		next := w.events(t)
		if p := awaitPart(t, next, "edge", failed); p.Problem != "no gateway is registered" {
			t.Errorf("without a gateway the problem of the edge is %q, want that no gateway is registered", p.Problem)
		}
		table := `{"revision":3,"routes":[{"name":"hello","to":[{"service":"hello","version":"v1","weight":90}]}]}`
		routes := func() string { return locked(&w.backends, func() string { return table }) }
		w.runGateway(t, "gateway", routes, http.NotFound)
		awaitPart(t, next, "edge", ok)
		var tables map[string]struct {
			Revision int
			Routes   []struct{ Name string }
		}
		next("routes", &tables)
		if got := tables["gateway-1"]; got.Revision != 3 || len(got.Routes) != 1 || got.Routes[0].Name != "hello" {
			t.Errorf("the routes of gateway-1 are %+v, want revision 3 with the route hello", got)
		}
		e := await(t, next, "traffic", hasEdges).Edges[0]
		if e.From != "gateway" || e.To != "hello" || e.Versions["v1"] != 90 {
			t.Errorf("the edge of the route is %+v, want gateway to hello with 90 for v1", e)
		}
		w.set(func() { table = "not JSON" })
		p := awaitPart(t, next, "edge", failed)
		if want := "gateway-1 answered /routes with text that is not JSON"; !strings.Contains(p.Problem, want) {
			t.Errorf("the problem of the edge is %q, want %q", p.Problem, want)
		}
	})
}

func TestRoutesAreShownWhileOneGatewayAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.runGateway(t, "gateway-a", func() string { return `{"revision":3}` }, http.NotFound)
		stop := w.runGateway(t, "gateway-b", func() string { return `{"revision":4}` }, http.NotFound)
		next := w.events(t)
		type routes map[string]struct{ Revision int }
		tables := await(t, next, "routes", func(r routes) bool { return len(r) == 2 })
		if tables["gateway-a-1"].Revision != 3 || tables["gateway-b-1"].Revision != 4 {
			t.Errorf("the routes are %+v, want revision 3 of gateway-a-1 and 4 of gateway-b-1", tables)
		}
		stop()
		tables = await(t, next, "routes", func(r routes) bool { return len(r) == 1 })
		var parts map[string]part
		_, _, text := w.do(t, "GET", "/api/state/parts", "")
		if decode(t, text, &parts); !parts["edge"].OK || tables["gateway-a-1"].Revision != 3 {
			t.Errorf("with one gateway: edge %+v, routes %+v; want ok and those of gateway-a-1", parts["edge"], tables)
		}
	})
}

func TestCircuitsFollowTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.board = &circuitsv1.WatchResponse{Services: []*circuitsv1.ServiceCircuits{{Service: "web"}}}
		next := w.events(t)
		awaitPart(t, next, "circuits", ok)
		var board struct{ Services []struct{ Service string } }
		next("circuits", &board)
		if len(board.Services) != 1 || board.Services[0].Service != "web" {
			t.Errorf("the board is %+v, want that of web", board)
		}
		w.set(func() { w.board = nil })
		silent := time.Now()
		p := awaitPart(t, next, "circuits", failed)
		if took := time.Since(silent); took > 8*time.Second || !strings.Contains(p.Problem, "has sent nothing for 5s") {
			t.Errorf("a watch that sends nothing fails after %v: %q", took, p.Problem)
		}
		w.set(func() { w.board = &circuitsv1.WatchResponse{} })
		awaitPart(t, next, "circuits", ok)
		w.set(func() { w.ended = true })
		awaitPart(t, next, "circuits", func(p part) bool { return p.Problem == "the circuits service ended the watch" })
	})
}

func TestLoadsAreRemovedWhileTheCircuitsServiceDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.board = &circuitsv1.WatchResponse{Links: &circuitsv1.LinksResponse{Links: []*circuitsv1.Link{
			{From: "web", To: "catalog", Figures: &circuitsv1.Figures{CallsPerSecond: 12}},
		}}}
		next := w.events(t)
		if got := await(t, next, "traffic", hasEdges).Edges[0].Figures.CallsPerSecond; got != 12 {
			t.Errorf("web to catalog has %v calls per second, want 12", got)
		}
		w.net.Cut("circuits")
		await(t, next, "traffic", func(t traffic) bool { return len(t.Edges) == 0 })
		w.net.Heal("circuits")
		await(t, next, "traffic", hasEdges)
	})
}

func TestSettingsHaveTheStatusAndTheNewestRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.status = &configv1.StatusResponse{Revision: 7, Current: 2, Total: 3, RegistryProblem: errRaw.Error()}
		w.history = &configv1.HistoryResponse{Revisions: []*configv1.Revision{{
			Revision: 7, Author: "ann", Reason: "game day", Time: timestamppb.Now(),
		}}}
		next := w.events(t)
		type state struct {
			Status struct {
				Revision        string
				Current, Total  int
				RegistryProblem string
			}
			Newest struct{ Revision, Author string }
		}
		var got state
		next("settings", &got)
		if s := got.Status; s.Revision != "7" || s.Current != 2 || s.Total != 3 {
			t.Errorf("status %+v, want revision 7 on 2 of 3", s)
		}
		assertPlain(t, "registryProblem", got.Status.RegistryProblem)
		if got.Newest.Revision != "7" || got.Newest.Author != "ann" {
			t.Errorf("newest revision %+v, want 7 by ann", got.Newest)
		}
		time.Sleep(5 * time.Second)
		if n := locked(&w.backends, func() int { return w.histories }); n != 1 {
			t.Errorf("the history of an unchanged revision was read %d times, want once", n)
		}
		w.set(func() {
			w.status = &configv1.StatusResponse{Revision: 8, Current: 3, Total: 3}
			w.history = &configv1.HistoryResponse{Revisions: []*configv1.Revision{{Revision: 8, Author: "bob"}}}
		})
		await(t, next, "settings", func(s state) bool { return s.Newest.Revision == "8" })
	})
}

func TestVizceralHasTheTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		code, h, text := w.do(t, "GET", "/vizceral.json", "")
		var v struct {
			Renderer, EntryNode string
			Nodes               []struct{ Name string }
		}
		decode(t, text, &v)
		if code != http.StatusOK || h.Get("Content-Type") != "application/json" || v.EntryNode != "INTERNET" ||
			v.Renderer != "global" || len(v.Nodes) != 2 {
			t.Errorf("status %d, %s; want 200 and a global graph of two nodes with the entry INTERNET", code, text)
		}
	})
}

func TestUnknownTopicNamesTheTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		for path, want := range map[string]int{
			"/api/state/weather": http.StatusNotFound, "/api/stream?topics=fleet,weather": http.StatusBadRequest,
		} {
			code, _, text := w.do(t, "GET", path, "")
			if code != want || !strings.Contains(text, "parts, fleet, traffic") {
				t.Errorf("GET %s: status %d, want %d with the topics: %s", path, code, want, text)
			}
		}
	})
}
