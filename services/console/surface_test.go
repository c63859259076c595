package console_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/services/console"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// assertPlain fails if a text for a page has text of Go, gRPC or the system in it.
func assertPlain(t *testing.T, what, text string) {
	t.Helper()
	for _, raw := range []string{"rpc error", "desc =", "dial tcp", "context deadline exceeded", "transport:", "EOF"} {
		if strings.Contains(text, raw) {
			t.Errorf("%s has raw text %q: %s", what, raw, text)
		}
	}
}

func TestThePageKnowsThatSettingsCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		next := w.events(t)
		awaitPart(t, next, "settingsStore", true)
		b.set(func() { b.store = errRaw })
		p := awaitPart(t, next, "settingsStore", false)
		if want := "the store (etcd) does not answer: waiting for the store"; p.Problem != want {
			t.Errorf("the problem of the store is %q, want %q", p.Problem, want)
		}
		b.set(func() { b.store = nil })
		awaitPart(t, next, "settingsStore", true)
	})
}

func TestThePageKnowsThatTheRegistryCannotWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		next := w.events(t)
		awaitPart(t, next, "registryStore", true)
		b.set(func() { b.list.StoreProblem = errRaw.Error() })
		p := awaitPart(t, next, "registryStore", false)
		assertPlain(t, "the problem of the registry's store", p.Problem)
		var f struct{ StoreProblem string }
		for f.StoreProblem == "" {
			next("fleet", &f)
		}
		assertPlain(t, "storeProblem of the fleet", f.StoreProblem)
	})
}

func TestChecksOfInstancesAreShownWithoutRawText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		b.set(func() { b.store = errRaw })
		next := w.events(t)
		for found := false; !found; {
			var f struct {
				Instances []struct {
					ID    string
					Admin *struct {
						Checks []struct {
							Name, Reason string
							OK           bool
						}
					}
				}
			}
			next("fleet", &f)
			for _, i := range f.Instances {
				if i.ID != "config-1" || i.Admin == nil {
					continue
				}
				for _, k := range i.Admin.Checks {
					if k.Name == "store" && !k.OK {
						found = true
						assertPlain(t, "the reason of the check", k.Reason)
					}
				}
			}
		}
	})
}

func TestAnErrorSaysWhoseTroubleItIs(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		status int
		want   problem
	}{
		{
			"the connection to the service is broken",
			status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 1.2.3.4:7000"`),
			http.StatusServiceUnavailable,
			problem{Detail: "the configuration service does not answer"},
		},
		{
			"the service is late",
			status.Error(codes.DeadlineExceeded, "context deadline exceeded"),
			http.StatusGatewayTimeout,
			problem{Detail: "the configuration service did not answer in time"},
		},
		{
			"the service says that its store is away",
			errs.Errorf(errs.Unavailable, "publishing: the store (etcd) did not answer; nothing was written").
				Because("STORE_UNAVAILABLE"),
			http.StatusServiceUnavailable,
			problem{
				Detail: "publishing: the store (etcd) did not answer; nothing was written", Code: "STORE_UNAVAILABLE",
			},
		},
		{
			"the service says why, with raw text behind it",
			errs.Errorf(errs.Timeout, "publishing revision 7: rpc error: code = Unknown").Because("MAY_HAVE_BEEN_WRITTEN"),
			http.StatusGatewayTimeout,
			problem{
				Detail: "the configuration service did not answer in time: publishing revision 7",
				Code:   "MAY_HAVE_BEEN_WRITTEN",
			},
		},
		{
			"the value is wrong, and the service quotes it",
			errs.Errorf(errs.Invalid, "publishing 1 change").Field("changes[0].value", "must be JSON: unexpected EOF"),
			http.StatusBadRequest,
			problem{
				Detail: "publishing 1 change",
				Errors: []struct{ Field, Detail string }{{"changes[0].value", "must be JSON: unexpected EOF"}},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b := newPlatform(t)
				b.publish = func(*configv1.PublishRequest) (*configv1.PublishResponse, error) {
					return nil, errs.ToStatus(t.Context(), tt.err).Err()
				}
				var got problem
				code := w.post(t, "/api/config/Publish", `{"author":"ann","reason":"r"}`, &got)
				if diff := cmp.Diff(tt.want, got); code != tt.status || diff != "" {
					t.Errorf("status %d, want %d; problem (-want +got):\n%s", code, tt.status, diff)
				}
			})
		})
	}
}

func TestRawTextsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		b.publish = func(*configv1.PublishRequest) (*configv1.PublishResponse, error) {
			return nil, status.Error(codes.Unavailable, "connection error: the raw text")
		}
		var got problem
		w.post(t, "/api/config/Publish", `{"author":"ann","reason":"r"}`, &got)
		if !strings.Contains(w.log.String(), "connection error: the raw text") {
			t.Errorf("the log does not have the raw text:\n%s", w.log)
		}
	})
}

func TestEveryActionNeedsAPrintableAuthorAndReason(t *testing.T) {
	actions := map[string]string{
		"/api/kill":                  `"service":"catalog"`,
		"/api/requests":              `"path":"/","count":1`,
		"/api/config/Publish":        `"changes":[]`,
		"/api/config/Rollback":       `"to":"1"`,
		"/api/circuits/Force":        `"service":"web","name":"catalog","state":"STATE_FORCED_OPEN"`,
		"/api/discovery/SetOverride": `"service":"web","id":"web-1","status":"STATUS_DOWN"`,
	}
	notes := map[string]struct{ author, reason, field string }{
		"no author":                   {"", "why", "author"},
		"blank author":                {" ", "why", "author"},
		"author with a line break":    {"ann\nbob", "why", "author"},
		"author with an escape":       {"ann\x1b[2J", "why", "author"},
		"author that is too long":     {strings.Repeat("a", 257), "why", "author"},
		"no reason":                   {"ann", "", "reason"},
		"reason with a line break":    {"ann", "why\nlevel=ERROR", "reason"},
		"reason that is too long":     {"ann", strings.Repeat("r", 1025), "reason"},
		"reason with a bidi override": {"ann", "why\u202e", "reason"},
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		for path, fields := range actions {
			for name, note := range notes {
				author, _ := json.Marshal(note.author)
				reason, _ := json.Marshal(note.reason)
				var got problem
				code := w.post(t, path, fmt.Sprintf(`{%s,"author":%s,"reason":%s}`, fields, author, reason), &got)
				if code != http.StatusBadRequest || len(got.Errors) != 1 || got.Errors[0].Field != note.field {
					t.Errorf("POST %s, %s: status %d, fields %+v; want 400 and the field %s",
						path, name, code, got.Errors, note.field)
				}
			}
		}
		if strings.Contains(w.log.String(), "msg=audit") {
			t.Errorf("a refused action is in the audit log:\n%s", w.log)
		}
	})
}

func TestQuestionsAndDryRunsNeedNoAuthor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		b.publish = func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
			if !q.DryRun {
				t.Error("the dry run arrived as a real one")
			}
			return &configv1.PublishResponse{}, nil
		}
		var answer any
		if code := w.post(t, "/api/config/Publish", `{"dryRun":true}`, &answer); code != http.StatusOK {
			t.Errorf("a dry run without an author: status %d, %v", code, answer)
		}
		if code := w.post(t, "/api/config/History", `{"limit":1}`, &answer); code != http.StatusOK {
			t.Errorf("a question: status %d, %v", code, answer)
		}
		if strings.Contains(w.log.String(), "msg=audit") {
			t.Errorf("what changes nothing is in the audit log:\n%s", w.log)
		}
	})
}

func TestActionsReachTheirOwnersAndTheAuditLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		var published *configv1.PublishRequest
		b.publish = func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
			published = q
			return &configv1.PublishResponse{Revision: 8}, nil
		}
		var answer struct{ Revision string }
		code := w.post(t, "/api/config/Publish",
			`{"changes":[{"name":"web.x","value":"1"}],"author":"ann","reason":"game day"}`, &answer)
		if code != http.StatusOK || answer.Revision != "8" || published.GetChanges()[0].GetName() != "web.x" {
			t.Errorf("publishing: status %d, revision %q, the service got %v", code, answer.Revision, published)
		}
		var none any
		w.post(t, "/api/circuits/Force",
			`{"service":"web","name":"catalog","state":"STATE_FORCED_OPEN","author":"ann","reason":"game day"}`, &none)
		if len(b.forced) != 1 || b.forced[0].GetName() != "catalog" {
			t.Errorf("forcing a circuit: the service got %v", b.forced)
		}
		w.post(t, "/api/discovery/SetOverride",
			`{"service":"web","id":"web-1","status":"STATUS_OUT_OF_SERVICE","author":"ann","reason":"game day"}`, &none)
		if len(b.overrides) != 1 || b.overrides[0].GetId() != "web-1" {
			t.Errorf("setting a status: the registry got %v", b.overrides)
		}
		for _, line := range []string{
			`action="publish settings" target=web.x`,
			`action="force a circuit" target="web catalog STATE_FORCED_OPEN"`,
			`action="set a status" target="web/web-1 STATUS_OUT_OF_SERVICE"`,
		} {
			if !strings.Contains(w.log.String(), line) {
				t.Errorf("the log has no audit line with %s:\n%s", line, w.log)
			}
		}
	})
}

func TestRequestsThroughTheEdgeAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		n := 0
		w.runGateway(t, b, func(rw http.ResponseWriter, r *http.Request) {
			if n++; n%4 == 0 {
				rw.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			rw.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(rw, "hello from ", r.URL.Path)
		})
		next := w.events(t)
		awaitPart(t, next, "registry", true)
		var got struct{ Statuses, Texts map[string]int }
		code := w.post(t, "/api/requests", `{"path":"/hello","count":20,"author":"ann","reason":"to see a split"}`, &got)
		if code != http.StatusOK {
			t.Fatalf("status %d, want 200", code)
		}
		if diff := cmp.Diff(map[string]int{"200": 15, "503": 5}, got.Statuses); diff != "" {
			t.Errorf("statuses (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int{"hello from /hello": 15}, got.Texts); diff != "" {
			t.Errorf("texts (-want +got):\n%s", diff)
		}
	})
}

func TestRoutesAreThoseOfTheGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		next := w.events(t)
		if p := awaitPart(t, next, "edge", false); p.Problem != "no gateway is registered" {
			t.Errorf("without a gateway the edge's problem is %q", p.Problem)
		}
		b.tables = `{"revision":3,"routes":[{"name":"hello","to":[{"service":"hello","version":"v1","weight":90}]}]}`
		w.runGateway(t, b, http.NotFound)
		awaitPart(t, next, "edge", true)
		var tables map[string]struct {
			Revision int
			Routes   []struct{ Name string }
		}
		next("routes", &tables)
		if got := tables["gateway-1"]; got.Revision != 3 || len(got.Routes) != 1 || got.Routes[0].Name != "hello" {
			t.Errorf("the table of gateway-1 is %+v, want revision 3 with the route hello", got)
		}
		var t1 struct {
			Edges []struct {
				From, To string
				Versions map[string]float64
			}
		}
		for len(t1.Edges) == 0 {
			next("traffic", &t1)
		}
		if e := t1.Edges[0]; e.From != "gateway" || e.To != "hello" || e.Versions["v1"] != 90 {
			t.Errorf("the edge of the route is %+v, want gateway to hello with 90 for v1", e)
		}
		b.set(func() { b.tables = "no JSON" })
		p := awaitPart(t, next, "edge", false)
		if !strings.Contains(p.Problem, "gateway-1 answered /routes with text that is not JSON") {
			t.Errorf("the problem of the edge is %q", p.Problem)
		}
	})
}

func TestCircuitsFollowTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		b.board = &circuitsv1.WatchResponse{Services: []*circuitsv1.ServiceCircuits{{Service: "web"}}}
		next := w.events(t)
		awaitPart(t, next, "circuits", true)
		var board struct{ Services []struct{ Service string } }
		next("circuits", &board)
		if len(board.Services) != 1 || board.Services[0].Service != "web" {
			t.Errorf("the board is %+v, want that of web", board)
		}
		b.set(func() { b.board = nil })
		silent := time.Now()
		p := awaitPart(t, next, "circuits", false)
		if took := time.Since(silent); took > 8*time.Second || !strings.Contains(p.Problem, "has sent nothing for 5s") {
			t.Errorf("a silent watch is reported after %v: %q", took, p.Problem)
		}
		b.set(func() { b.board = &circuitsv1.WatchResponse{} })
		awaitPart(t, next, "circuits", true)
		b.set(func() { b.ended = true })
		for p.Problem != "the circuits service ended the watch" { // events fails the test if this does not come
			p = awaitPart(t, next, "circuits", false)
		}
	})
}

func TestSettingsHaveTheStatusAndTheNewestRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		b.status = &configv1.StatusResponse{Revision: 7, Current: 2, Total: 3, RegistryProblem: errRaw.Error()}
		b.history = &configv1.HistoryResponse{Revisions: []*configv1.Revision{{
			Revision: 7, Author: "ann", Reason: "game day", Time: timestamppb.Now(),
		}}}
		next := w.events(t)
		var got struct {
			Status struct {
				Revision        string
				Current, Total  int
				RegistryProblem string
			}
			Newest struct{ Revision, Author string }
		}
		next("settings", &got)
		if s := got.Status; s.Revision != "7" || s.Current != 2 || s.Total != 3 {
			t.Errorf("status %+v, want revision 7 on 2 of 3", s)
		}
		assertPlain(t, "registryProblem", got.Status.RegistryProblem)
		if got.Newest.Revision != "7" || got.Newest.Author != "ann" {
			t.Errorf("newest revision %+v, want 7 by ann", got.Newest)
		}
	})
}

func TestAnInstanceIsShownAsTheRegistryListsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		started := time.Now().Add(-time.Minute).UTC()
		b.list.Instances = []*discoveryv1.Instance{{
			Service: "web", Id: "web-1", Zone: "a", Version: "2", Status: discoveryv1.Status_STATUS_OUT_OF_SERVICE,
			Reported: discoveryv1.Status_STATUS_UP, Override: discoveryv1.Status_STATUS_OUT_OF_SERVICE,
			OverrideAuthor: "ann", OverrideReason: "game day", Started: timestamppb.New(started),
		}}
		b.list.SelfPreservation = &discoveryv1.SelfPreservation{Active: true, Reason: "half of the leases ended"}
		next := w.events(t)
		type instance struct {
			ID, Zone, Version, Status, Reported, Override, OverrideAuthor, OverrideReason string
			Started                                                                       time.Time
		}
		var f struct {
			LastKnown        bool
			Instances        []instance
			SelfPreservation struct{ Reason string }
		}
		for len(f.Instances) != 1 {
			next("fleet", &f)
		}
		want := instance{
			ID: "web-1", Zone: "a", Version: "2", Status: "OUT_OF_SERVICE", Reported: "UP", Override: "OUT_OF_SERVICE",
			OverrideAuthor: "ann", OverrideReason: "game day", Started: started,
		}
		if diff := cmp.Diff(want, f.Instances[0]); diff != "" || f.LastKnown {
			t.Errorf("lastKnown %t; the instance (-want +got):\n%s", f.LastKnown, diff)
		}
		if f.SelfPreservation.Reason != "half of the leases ended" {
			t.Errorf("self-preservation is %+v", f.SelfPreservation)
		}
	})
}

func TestTheLastKnownInstancesAreShownWithoutARegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		defer w.victim(t, nil)()
		var f fleet
		code, _, body := w.do(t, "GET", "/api/state/fleet", "")
		if err := json.Unmarshal([]byte(body), &f); err != nil {
			t.Fatalf("status %d: %v\n%s", code, err, body)
		}
		if !f.LastKnown || len(f.Instances) != 1 || f.Instances[0].ID != "catalog-1" {
			t.Errorf("lastKnown %t, instances %+v; want catalog-1 as last known", f.LastKnown, f.Instances)
		}
	})
}

func TestTracesArePassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		w.runTracing(t, b)
		awaitPart(t, w.events(t), "registry", true)
		b.traces = func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Bijou-Incomplete", "true")
			fmt.Fprintf(rw, `{"asked":%q}`, r.URL.RequestURI())
		}
		code, header, body := w.do(t, "GET", "/api/traces/trace/0af7?x=1", "")
		if want := `{"asked":"/api/v2/trace/0af7?x=1"}`; code != http.StatusOK || body != want {
			t.Errorf("status %d, %s, want 200 and %s", code, body, want)
		}
		if header.Get("Bijou-Incomplete") != "true" {
			t.Error("the header Bijou-Incomplete of the trace store is not passed on")
		}
		b.traces = http.NotFound
		if code, _, body = w.do(t, "GET", "/api/traces/trace/0af8", ""); code != http.StatusNotFound {
			t.Errorf("a trace that does not exist: status %d, %s", code, body)
		}
		if code, _, body = w.do(t, "GET", "/api/traces/metrics", ""); code != http.StatusNotFound {
			t.Errorf("a page of the trace store that is no question: status %d, %s", code, body)
		}
	})
}

func TestATraceStoreThatDoesNotAnswerIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		b.list.Instances = append(b.list.Instances, &discoveryv1.Instance{
			Service: "tracing", Id: "tracing-9", Endpoints: map[string]string{"zipkin": "nowhere:9411"},
		})
		awaitPart(t, w.events(t), "registry", true)
		code, _, body := w.do(t, "GET", "/api/traces/services", "")
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "the trace store is away: tracing-9") {
			t.Errorf("status %d, want 503 that names tracing-9: %s", code, body)
		}
		assertPlain(t, "the problem", body)
	})
}

func TestBackEndsAreAskedOnlyWhilePagesAreOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		time.Sleep(time.Minute)
		if b.set(func() {}); b.listed != 0 {
			t.Errorf("without a page the registry was asked %d times in a minute", b.listed)
		}
		if code, _, body := w.do(t, "GET", "/api/state/fleet", ""); code != http.StatusOK {
			t.Fatalf("GET /api/state/fleet: %d %s", code, body)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		asked := b.listed
		if asked == 0 || asked > 15 {
			t.Errorf("after one question the registry was asked %d times, want once a second for ten seconds", asked)
		}
		time.Sleep(30 * time.Second)
		if b.listed != asked {
			t.Errorf("the registry is still asked a minute later: %d times", b.listed-asked)
		}
	})
}

func TestAStreamCanBeLimitedToTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b := newPlatform(t)
		code, _, body := w.do(t, "GET", "/api/state/weather", "")
		if code != http.StatusNotFound || !strings.Contains(body, "parts, fleet, traffic") {
			t.Errorf("an unknown topic: status %d, want 404 with the topics: %s", code, body)
		}
		b.set(func() { b.list = &discoveryv1.ListResponse{} })
		code, _, body = w.do(t, "GET", "/vizceral.json", "")
		var v struct {
			Renderer, EntryNode string
		}
		if err := json.Unmarshal([]byte(body), &v); err != nil || code != http.StatusOK || v.EntryNode != "INTERNET" {
			t.Errorf("GET /vizceral.json: status %d, error %v: %s", code, err, body)
		}
	})
}

func TestOptionsNameTheFieldThatCannotWork(t *testing.T) {
	err := console.New(t.Context(), nil, console.Options{MaxPages: -1})
	if want := "options of console: MaxPages must not be negative, is -1"; err == nil || err.Error() != want {
		t.Errorf("New with MaxPages -1: %v, want %s", err, want)
	}
}
