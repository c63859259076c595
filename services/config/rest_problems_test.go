package config_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"

	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/services/config"
	"bijou.dev/services/config/configtest"

	"github.com/google/go-cmp/cmp"
)

// problem is the part of an RFC 9457 problem that programs read.
type problem struct {
	Title  string            `json:"title"`
	Status int               `json:"status"`
	Detail string            `json:"detail"`
	Code   string            `json:"code"`
	Meta   map[string]string `json:"meta"`
	Errors []struct {
		Field  string `json:"field"`
		Detail string `json:"detail"`
	} `json:"errors"`
}

func publishBody(value, extra string) string {
	return `{"changes":[{"name":"search.limit","scope":{"layer":"LAYER_APP","app":"catalog"},"value":"` + value + `"}],` +
		`"author":"ann","reason":"more"` + extra + `}`
}

// TestRESTProblems checks that a program can distinguish an error of the store from an error of its request.
func TestRESTProblems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := kvmem.New()
		s := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: store}})
		declare(t, s.Client(t))
		h := s.Handler()
		ask(h, http.MethodPost, "/v1/publish", publishBody("30", ""))
		ask(h, http.MethodPost, "/v1/publish", publishBody("31", ""))

		post := func(path, body string, status int) problem {
			t.Helper()
			w := ask(h, http.MethodPost, path, body)
			if w.Code != status || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Fatalf("%s %s: %d %s %s, want a problem of status %d",
					path, body, w.Code, w.Header().Get("Content-Type"), w.Body, status)
			}
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("%s: Cache-Control is %q, want no-store", path, got)
			}
			var p problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			if p.Status != status {
				t.Errorf("%s: the body has status %d, want %d", path, p.Status, status)
			}
			return p
		}

		bad := post("/v1/publish", publishBody("500", ""), http.StatusBadRequest)
		if len(bad.Errors) != 1 || bad.Errors[0].Field != "changes[0].value" || bad.Code != "" {
			t.Errorf("a value that does not fit: %+v, want one error in changes[0].value and no code", bad)
		}
		stale := post("/v1/publish", publishBody("32", `,"expectedRevision":"1"`), http.StatusConflict)
		delete(stale.Meta, "time")
		want := map[string]string{"author": "ann", "reason": "more", "revision": "2"}
		if stale.Code != "STALE_REVISION" || !cmp.Equal(stale.Meta, want) {
			t.Errorf("an outdated revision: %+v, want STALE_REVISION with %v and a time", stale, want)
		}
		old := post("/v1/rollback", `{"to":"1","expectedRevision":"1","author":"ann","reason":"back"}`, http.StatusConflict)
		if old.Code != "STALE_REVISION" {
			t.Errorf("an outdated rollback: %+v, want STALE_REVISION", old)
		}
		newest := post("/v1/rollback", `{"to":"2","author":"ann","reason":"back"}`, http.StatusBadRequest)
		if len(newest.Errors) != 1 || newest.Errors[0].Field != "to" {
			t.Errorf("a rollback to the newest revision: %+v, want one error in to", newest)
		}

		store.Fail(errors.New(brokenPipe))
		for _, value := range []string{"32", "500"} { // whether it fits is not the question now
			away := post("/v1/publish", publishBody(value, ""), http.StatusServiceUnavailable)
			if away.Code != "STORE_UNAVAILABLE" || len(away.Errors) != 0 {
				t.Errorf("a publish of %s without the store: %+v, want STORE_UNAVAILABLE and no field", value, away)
			}
		}
		if w := ask(h, http.MethodGet, "/v1/values?app=catalog&names=search.limit", ""); w.Code != http.StatusOK {
			t.Errorf("reading without the store: %d %s", w.Code, w.Body)
		}
	})
}
