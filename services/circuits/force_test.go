package circuits_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi/httpapitest"
	"bijou.dev/services/circuits"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// changes returns the changes of the last publish, each as one line.
func (s *settings) changes() []string {
	var all []string
	for _, c := range s.published[len(s.published)-1].Changes {
		if c.Scope.Layer != configv1.Layer_LAYER_OVERRIDE {
			all = append(all, "not an override")
		}
		value := c.Value + " for " + c.Ttl.AsDuration().String()
		if c.Remove {
			value = "removed"
		}
		all = append(all, fmt.Sprintf("%s of %q: %s", strings.TrimPrefix(c.Name, "circuit."), c.Scope.App, value))
	}
	return all
}

func TestForceAndReleasePublishSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		steps := []struct {
			req  *circuitsv1.ForceRequest
			want []string
		}{
			{
				&circuitsv1.ForceRequest{
					Service: "web", Name: "catalog.GetMovie",
					State: circuitsv1.State_STATE_FORCED_OPEN,
				},
				[]string{
					`catalog.GetMovie.forceOpen of "web": true for 10m0s`,
					`catalog.GetMovie.forceClosed of "web": false for 10m0s`,
				},
			},
			{
				&circuitsv1.ForceRequest{
					Name: "catalog", State: circuitsv1.State_STATE_FORCED_CLOSED, Ttl: durationpb.New(time.Hour),
				},
				[]string{
					`catalog.forceOpen of "": false for 1h0m0s`,
					`catalog.forceClosed of "": true for 1h0m0s`,
				},
			},
			{
				&circuitsv1.ForceRequest{Service: "web", Name: "catalog.GetMovie"},
				[]string{
					`catalog.GetMovie.forceClosed of "web": removed`,
					`catalog.GetMovie.forceOpen of "web": removed`,
				},
			},
		}
		for i, step := range steps {
			step.req.Author, step.req.Reason = "ann", "drill"
			resp, err := client.Force(t.Context(), step.req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Revision != int64(i+1) {
				t.Errorf("revision is %d, want %d", resp.Revision, i+1)
			}
			if diff := cmp.Diff(step.want, w.config.changes()); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			if p := w.config.published[i]; p.Author != "ann" || p.Reason != "drill" {
				t.Errorf("published by %q because of %q", p.Author, p.Reason)
			}
		}
		other := &circuitsv1.ForceRequest{Service: "search", Name: "catalog", Author: "ann", Reason: "drill"}
		if _, err := client.Force(t.Context(), other); errs.KindOf(err) != errs.NotFound {
			t.Errorf("releasing for search what is forced for every caller: %v", err)
		}
		_, err := client.Force(t.Context(), steps[2].req)
		if errs.KindOf(err) != errs.NotFound {
			t.Errorf("releasing twice: %v", err)
		}
		_, err = client.Force(t.Context(), &circuitsv1.ForceRequest{
			Name: "catalog", State: circuitsv1.State_STATE_FORCED_OPEN, Author: "ann", Reason: "refuse this",
		})
		if errs.KindOf(err) != errs.Precondition || !strings.Contains(err.Error(), "no service declares this") {
			t.Errorf("a refusal of the config service comes back as %v", err)
		}
	})
}

func TestBadForceRequestsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		good := &circuitsv1.ForceRequest{
			Name: "catalog", State: circuitsv1.State_STATE_FORCED_OPEN, Author: "ann", Reason: "drill",
		}
		for field, spoil := range map[string]func(*circuitsv1.ForceRequest){
			"state":      func(r *circuitsv1.ForceRequest) { r.State = circuitsv1.State_STATE_HALF_OPEN },
			"state ":     func(r *circuitsv1.ForceRequest) { r.State = 77 },
			"name":       func(r *circuitsv1.ForceRequest) { r.Name = "" },
			"name ":      func(r *circuitsv1.ForceRequest) { r.Name = "catalog.*" },
			"name  ":     func(r *circuitsv1.ForceRequest) { r.Name = "default" },
			"name   ":    func(r *circuitsv1.ForceRequest) { r.Name = strings.Repeat("x", 300) },
			"service":    func(r *circuitsv1.ForceRequest) { r.Service = "a/b" },
			"author":     func(r *circuitsv1.ForceRequest) { r.Author = " " },
			"author ":    func(r *circuitsv1.ForceRequest) { r.Author = "ann\nforged" },
			"reason":     func(r *circuitsv1.ForceRequest) { r.Reason = "" },
			"reason ":    func(r *circuitsv1.ForceRequest) { r.Reason = "drill\x1b[2J" },
			"ttl":        func(r *circuitsv1.ForceRequest) { r.Ttl = durationpb.New(time.Second) },
			"ttl ":       func(r *circuitsv1.ForceRequest) { r.Ttl = durationpb.New(25 * time.Hour) },
			"ttl  ":      func(r *circuitsv1.ForceRequest) { r.Ttl = durationpb.New(-time.Hour) },
			"ttl (nano)": func(r *circuitsv1.ForceRequest) { r.Ttl = &durationpb.Duration{Seconds: 60, Nanos: -1} },
		} {
			req := proto.Clone(good).(*circuitsv1.ForceRequest)
			spoil(req)
			_, err := client.Force(t.Context(), req)
			name, _, _ := strings.Cut(field, " ")
			if errs.KindOf(err) != errs.Invalid || !strings.Contains(errs.FromRPC(err).Error(), name) {
				t.Errorf("bad %s: got %v", field, errs.FromRPC(err))
			}
		}
		if len(w.config.published) != 0 {
			t.Errorf("published %v", w.config.published)
		}
	})
}

func TestForceOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		board, _, _ := w.replica(t, "circuits-1", circuits.Options{})
		const good = `{"service":"web","name":"catalog","state":"STATE_FORCED_OPEN","ttl":"60s","author":"ann",
			"reason":"drill"}`
		h := board.Handler()
		httpapitest.Check(t, h, "POST", "/v1/force", good)
		httpapitest.Check(t, h, "GET", "/v1/circuits", "")
		httpapitest.Check(t, h, "GET", "/v1/links", "")
		for body, want := range map[string]int{good: 200, strings.Replace(good, "drill", "", 1): 400} {
			req := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/force", strings.NewReader(body))
			req.Header.Set("Content-Type", "application/json; charset=utf-8")
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, req)
			if rec.Code != want {
				t.Errorf("%s: got %d %s, want %d", body, rec.Code, rec.Body, want)
			}
		}
		if got := len(w.config.published); got != 1 {
			t.Errorf("%d publishes, want 1", got)
		}
	})
}
