package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/services/console"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// actions is path -> fields of a valid body without author and reason.
var actions = map[string]string{
	"/api/kill":                  `"service":"catalog"`,
	"/api/requests":              `"path":"/","count":1`,
	"/api/config/Publish":        `"changes":[]`,
	"/api/config/Rollback":       `"to":"1"`,
	"/api/circuits/Force":        `"service":"web","name":"catalog","state":"STATE_FORCED_OPEN"`,
	"/api/discovery/SetOverride": `"service":"web","id":"web-1","status":"STATUS_DOWN"`,
}

// body returns a body with an author and a reason.
func body(fields string) string { return "{" + fields + `,"author":"ann","reason":"game day"}` }

func TestEveryActionNeedsAPrintableAuthorAndReason(t *testing.T) {
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

func TestReadOnlyRefusesEveryActionAndAnswersQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{ReadOnly: true})
		w.runConfig(t)
		w.publish = func(*configv1.PublishRequest) (*configv1.PublishResponse, error) {
			return &configv1.PublishResponse{}, nil
		}
		for path, fields := range actions {
			var got problem
			if code := w.post(t, path, body(fields), &got); code != http.StatusForbidden ||
				!strings.Contains(got.Detail, "-read-only") {
				t.Errorf("POST %s: status %d, %q; want 403 that names -read-only", path, code, got.Detail)
			}
		}
		for path, body := range map[string]string{
			"/api/config/History": `{"limit":1}`, "/api/config/Publish": `{"dryRun":true}`,
			"/api/config/Rollback": `{"dryRun":true}`,
		} {
			var answer any
			if code := w.post(t, path, body, &answer); code != http.StatusOK {
				t.Errorf("POST %s %s: status %d, %v; want 200: it changes nothing", path, body, code, answer)
			}
		}
		if strings.Contains(w.log.String(), "msg=audit") {
			t.Errorf("a query or a refused action is in the audit log:\n%s", w.log)
		}
	})
}

func TestRequestsOfOtherSitesAreRefused(t *testing.T) {
	force := body(actions["/api/circuits/Force"])
	for _, c := range []struct {
		name   string
		header []string
		want   int
		says   string
	}{
		{"page of another site", []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden, "another site"},
		{"origin of another site", []string{"Origin", "http://evil.example"}, http.StatusForbidden, "another site"},
		{"host name that is not allowed", []string{"Host", "evil.example"}, http.StatusForbidden, "evil.example"},
		{"form", []string{"Content-Type", "text/plain"}, http.StatusUnsupportedMediaType, "application/json"},
		// These are allowed. They reach the circuits service, which does not run.
		{"page of the console", []string{"Sec-Fetch-Site", "same-origin"}, http.StatusServiceUnavailable, "circuits"},
		{"allowed host name", []string{"Host", "console.example.org"}, http.StatusServiceUnavailable, "circuits"},
		{"IPv6 address", []string{"Host", "[2001:db8::1]:8081"}, http.StatusServiceUnavailable, "circuits"},
		{"name below localhost", []string{"Host", "console.localhost:8081"}, http.StatusServiceUnavailable, "circuits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, console.Options{Hosts: []string{"console.example.org"}})
				header := append([]string{"Content-Type", "application/json"}, c.header...)
				code, h, text := w.do(t, "POST", "/api/circuits/Force", force, header...)
				if kind := h.Get("Content-Type"); code != c.want || kind != "application/problem+json" ||
					!strings.Contains(text, c.says) {
					t.Errorf("status %d, Content-Type %s, %s; want %d and a problem with %q",
						code, kind, text, c.want, c.says)
				}
			})
		})
	}
}

func TestUnknownPathsOfTheAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		for _, path := range []string{"/api/config/Declare", "/api/", "/api/x", "/api/state/", "/api/state/weather"} {
			code, h, text := w.do(t, "GET", path, "")
			if kind := h.Get("Content-Type"); code != http.StatusNotFound || kind != "application/problem+json" {
				t.Errorf("GET %s: status %d, Content-Type %s, %.200s; want 404 and a problem", path, code, kind, text)
			}
		}
	})
}

func TestQueriesAndDryRunsNeedNoAuthor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.publish = func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
			if !q.DryRun {
				t.Error("the configuration service got a dry run without dryRun")
			}
			return &configv1.PublishResponse{}, nil
		}
		var answer any
		if code := w.post(t, "/api/config/Publish", `{"dryRun":true}`, &answer); code != http.StatusOK {
			t.Errorf("a dry run without an author: status %d, %v", code, answer)
		}
		if code := w.post(t, "/api/config/History", `{"limit":1}`, &answer); code != http.StatusOK {
			t.Errorf("a query: status %d, %v", code, answer)
		}
		if strings.Contains(w.log.String(), "msg=audit") {
			t.Errorf("a request that changes nothing is in the audit log:\n%s", w.log)
		}
	})
}

func TestActionsReachTheirServiceAndTheAuditLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		var published *configv1.PublishRequest
		w.publish = func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
			published = q
			return &configv1.PublishResponse{Revision: 8}, nil
		}
		var answer struct{ Revision string }
		code := w.post(t, "/api/config/Publish", body(`"changes":[{"name":"web.x","value":"1"}]`), &answer)
		if code != http.StatusOK || answer.Revision != "8" || published.GetChanges()[0].GetName() != "web.x" {
			t.Errorf("publishing: status %d, revision %q, the service got %v", code, answer.Revision, published)
		}
		code = w.post(t, "/api/config/Rollback", body(`"to":"7"`), &answer)
		if code != http.StatusOK || answer.Revision != "9" || len(w.rollbacks) != 1 || w.rollbacks[0].GetTo() != 7 {
			t.Errorf("rolling back: status %d, revision %q, the service got %v", code, answer.Revision, w.rollbacks)
		}
		var none any
		w.post(t, "/api/circuits/Force", body(actions["/api/circuits/Force"]), &none)
		if len(w.forced) != 1 || w.forced[0].GetName() != "catalog" || w.forced[0].GetAuthor() != "ann" {
			t.Errorf("forcing a circuit: the service got %v", w.forced)
		}
		w.post(t, "/api/discovery/SetOverride", body(actions["/api/discovery/SetOverride"]), &none)
		if len(w.overrides) != 1 || w.overrides[0].GetId() != "web-1" || w.overrides[0].GetReason() != "game day" {
			t.Errorf("setting a status: the registry got %v", w.overrides)
		}
		for _, line := range []string{
			`action="publish settings" target=web.x reason="game day" outcome=done`,
			`action="roll settings back" target=7 reason="game day" outcome=done`,
			`action="force a circuit" target="web catalog STATE_FORCED_OPEN" reason="game day" outcome=done`,
			`action="set a status" target="web/web-1 STATUS_DOWN" reason="game day" outcome=done`,
		} {
			if !strings.Contains(w.log.String(), line) {
				t.Errorf("the log has no audit line with %s:\n%s", line, w.log)
			}
		}
	})
}

func TestFailedActionIsInTheAuditLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.publish = func(*configv1.PublishRequest) (*configv1.PublishResponse, error) {
			return nil, errs.ToStatus(t.Context(), errs.Errorf(errs.Conflict, "revision 7 is not the newest")).Err()
		}
		var got problem
		code := w.post(t, "/api/config/Publish", body(`"changes":[]`), &got)
		if code != http.StatusConflict || got.Detail != "revision 7 is not the newest" {
			t.Errorf("status %d, %q; want 409 and the text of the configuration service", code, got.Detail)
		}
		if want := `outcome="refused: revision 7 is not the newest"`; !strings.Contains(w.log.String(), want) {
			t.Errorf("the log has no audit line with %s:\n%s", want, w.log)
		}
	})
}

func TestActionEndsWhenItsServiceHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		release := make(chan struct{})
		defer close(release)
		w.publish = func(*configv1.PublishRequest) (*configv1.PublishResponse, error) {
			<-release
			return nil, context.Canceled
		}
		var got problem
		code := w.post(t, "/api/config/Publish", body(`"changes":[]`), &got)
		if want := "the configuration service did not answer in time"; code != http.StatusGatewayTimeout ||
			!strings.HasPrefix(got.Detail, want) {
			t.Errorf("status %d, %q; want 504, %q", code, got.Detail, want)
		}
	})
}

func TestErrorNamesTheServiceThatFailed(t *testing.T) {
	const lost = `connection error: desc = "transport: Error while dialing: dial tcp 1.2.3.4:7000"`
	for _, tt := range []struct {
		name   string
		err    error
		status int
		want   problem
	}{
		{
			"the connection to the service is broken", status.Error(codes.Unavailable, lost),
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
			"the service says that its store does not answer",
			errs.Errorf(errs.Unavailable, "publishing: the store (etcd) did not answer; nothing was written").
				Because("STORE_UNAVAILABLE"),
			http.StatusServiceUnavailable,
			problem{
				Detail: "publishing: the store (etcd) did not answer; nothing was written", Code: "STORE_UNAVAILABLE",
			},
		},
		{
			"the service says why, followed by raw text",
			errs.Errorf(errs.Timeout, "publishing revision 7: rpc error: code = Unknown").
				Because("MAY_HAVE_BEEN_WRITTEN"),
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
				w := newPlatform(t)
				w.publish = func(*configv1.PublishRequest) (*configv1.PublishResponse, error) {
					return nil, errs.ToStatus(t.Context(), tt.err).Err()
				}
				var got problem
				code := w.post(t, "/api/config/Publish", body(`"changes":[]`), &got)
				if diff := cmp.Diff(tt.want, got); code != tt.status || diff != "" {
					t.Errorf("status %d, want %d; problem (-want +got):\n%s", code, tt.status, diff)
				}
			})
		})
	}
}

func TestRawTextIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.publish = func(*configv1.PublishRequest) (*configv1.PublishResponse, error) {
			return nil, status.Error(codes.Unavailable, "connection error: the raw text")
		}
		var got problem
		w.post(t, "/api/config/Publish", body(`"changes":[]`), &got)
		if !strings.Contains(w.log.String(), "connection error: the raw text") {
			t.Errorf("the log does not have the raw text:\n%s", w.log)
		}
	})
}

func TestActionFailsWhileItsServiceDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		for path, service := range map[string]string{
			"/api/config/Publish":        "the configuration service",
			"/api/circuits/Force":        "the circuits service",
			"/api/discovery/SetOverride": "the registry",
		} {
			var got problem
			code := w.post(t, path, body(actions[path]), &got)
			if code != http.StatusServiceUnavailable {
				t.Errorf("POST %s without %s: status %d, want 503: %s", path, service, code, got.Detail)
			}
			assertPlain(t, "the problem of "+path, got.Detail)
		}
	})
}

func TestKillGoesThroughTheInstanceAndIsAudited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		crashed := make(chan struct{}, 1)
		w.runCatalog(t, func() { crashed <- struct{}{} })
		var killed struct{ Killed []string }
		code := w.post(t, "/api/kill", body(`"service":"catalog","id":"catalog-1"`), &killed)
		if diff := cmp.Diff([]string{"catalog-1"}, killed.Killed); code != http.StatusOK || diff != "" {
			t.Fatalf("status %d, want 200; killed (-want +got):\n%s", code, diff)
		}
		<-crashed
		want := `action=kill target=catalog/catalog-1 reason="game day" outcome=done`
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("the log has no audit line with %s:\n%s", want, w.log)
		}
	})
}

func TestKillErrors(t *testing.T) {
	for _, tt := range []struct {
		name, fields string
		mayBeKilled  bool
		status       int
		says         string
	}{
		{"unknown instance", `"service":"catalog","id":"catalog-9"`, true, http.StatusNotFound, "catalog-9"},
		{"unknown service", `"service":"nothing"`, true, http.StatusNotFound, "nothing"},
		{
			"instance that does not allow it", `"service":"catalog"`, false,
			http.StatusPreconditionFailed, "-allow-kill",
		},
		{"wrong duration", `"service":"catalog","for":"1h"`, true, http.StatusBadRequest, "for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, console.Options{})
				var crash func()
				if tt.mayBeKilled {
					crash = func() { t.Error("the instance was killed") }
				}
				w.runCatalog(t, crash)
				code, _, text := w.do(t, "POST", "/api/kill", body(tt.fields), "Content-Type", "application/json")
				if code != tt.status || !strings.Contains(text, tt.says) {
					t.Errorf("status %d, %s; want %d and %q", code, text, tt.status, tt.says)
				}
			})
		})
	}
}

func TestKillOfAnInstanceThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		w.runCatalog(t, nil)()
		var got problem
		code := w.post(t, "/api/kill", body(`"service":"catalog"`), &got)
		if code != http.StatusServiceUnavailable || !strings.Contains(got.Detail, "catalog-1 does not answer") {
			t.Errorf("status %d, %q; want 503 and that catalog-1 does not answer", code, got.Detail)
		}
		assertPlain(t, "the problem", got.Detail)
	})
}

func TestKillOfAnInstanceThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		w.runCatalog(t, nil)
		w.net.Cut("catalog")
		start := time.Now()
		var got problem
		code := w.post(t, "/api/kill", body(`"service":"catalog"`), &got)
		if want := "catalog-1 did not answer in time"; code != http.StatusServiceUnavailable ||
			!strings.HasPrefix(got.Detail, want) {
			t.Errorf("status %d, %q; want 503, %q", code, got.Detail, want)
		}
		if took := time.Since(start); took > 16*time.Second {
			t.Errorf("the action ended after %v, want 15 s", took)
		}
		w.net.Heal("catalog")
	})
}

func TestRequestsThroughTheGatewayAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		n := 0
		w.runGateway(t, "gateway", func() string { return "{}" }, func(rw http.ResponseWriter, r *http.Request) {
			if n++; n%4 == 0 {
				rw.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			rw.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(rw, "hello from ", r.URL.Path)
		})
		w.awaitListed(t)
		var got struct{ Statuses, Texts map[string]int }
		if code := w.post(t, "/api/requests", body(`"path":"/hello","count":20`), &got); code != http.StatusOK {
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

func TestRequestsCountAtMostTwentyTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		n := 0
		w.runGateway(t, "gateway", func() string { return "{}" }, func(rw http.ResponseWriter, _ *http.Request) {
			n++
			rw.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(rw, "answer ", n)
		})
		w.awaitListed(t)
		var got struct{ Statuses, Texts map[string]int }
		w.post(t, "/api/requests", body(`"path":"/","count":200`), &got)
		if got.Statuses["200"] != 200 || len(got.Texts) != 20 {
			t.Errorf("statuses %v with %d texts; want 200 answers and 20 texts", got.Statuses, len(got.Texts))
		}
	})
}

func TestRequestsWithoutAnAnswerAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.register("gateway", "gateway-9", map[string]string{"http": "nowhere:8080"})
		w.awaitListed(t)
		var got struct{ Statuses, Texts map[string]int }
		code := w.post(t, "/api/requests", body(`"path":"/","count":3`), &got)
		if diff := cmp.Diff(map[string]int{"no answer": 3}, got.Statuses); code != http.StatusOK || diff != "" {
			t.Errorf("status %d, want 200; statuses (-want +got):\n%s", code, diff)
		}
	})
}

func TestRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		for _, tt := range []struct{ fields, field string }{
			{`"path":"/","count":0`, "count"},
			{`"path":"/","count":-1`, "count"},
			{`"path":"/","count":201`, "count"},
			{`"path":"","count":1`, "path"},
			{`"path":"x","count":1`, "path"},
			{`"path":"//evil.example/","count":1`, "path"},
		} {
			var got problem
			code := w.post(t, "/api/requests", body(tt.fields), &got)
			if code != http.StatusBadRequest || len(got.Errors) != 1 || got.Errors[0].Field != tt.field {
				t.Errorf("%s: status %d, fields %+v; want 400 and the field %s", tt.fields, code, got.Errors, tt.field)
			}
		}
		var got problem
		code := w.post(t, "/api/requests", body(`"path":"/","count":200`), &got)
		if want := "sending requests: no gateway is registered"; code != http.StatusServiceUnavailable ||
			got.Detail != want {
			t.Errorf("without a gateway: status %d, %q; want 503, %q", code, got.Detail, want)
		}
	})
}
