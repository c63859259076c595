package discovery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi/httpapitest"
	"bijou.dev/platform/names"
	"bijou.dev/platform/names/namestest"
	registry "bijou.dev/services/discovery"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestBadHeartbeatsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		field  string
		change func(*discoveryv1.RegisterRequest)
	}{
		"no instance": {"instance", func(r *discoveryv1.RegisterRequest) { r.Instance = nil }},
		"no service":  {"instance.service", func(r *discoveryv1.RegisterRequest) { r.Instance.Service = "" }},
		"service": {
			"instance.service",
			func(r *discoveryv1.RegisterRequest) { r.Instance.Service = "cat/alog" },
		},
		"id": {"instance.id", func(r *discoveryv1.RegisterRequest) { r.Instance.Id = "../1" }},
		"long id": {
			"instance.id",
			func(r *discoveryv1.RegisterRequest) { r.Instance.Id = strings.Repeat("i", 129) },
		},
		"status":         {"instance.reported", func(r *discoveryv1.RegisterRequest) { r.Instance.Reported = 0 }},
		"unknown status": {"instance.reported", func(r *discoveryv1.RegisterRequest) { r.Instance.Reported = 99 }},
		"zone":           {"instance.zone", func(r *discoveryv1.RegisterRequest) { r.Instance.Zone = "a\nb" }},
		"version": {
			"instance.version",
			func(r *discoveryv1.RegisterRequest) { r.Instance.Version = strings.Repeat("v", 300) },
		},
		"started": {
			"instance.started",
			func(r *discoveryv1.RegisterRequest) { r.Instance.Started = &timestamppb.Timestamp{Nanos: -1} },
		},
		"endpoint name": {
			`instance.endpoints["G RPC"]`,
			func(r *discoveryv1.RegisterRequest) { r.Instance.Endpoints = map[string]string{"G RPC": "a:1"} },
		},
		"endpoint": {`instance.endpoints["grpc"]`, func(r *discoveryv1.RegisterRequest) {
			r.Instance.Endpoints = map[string]string{"grpc": "catalog-1"}
		}},
		"port": {`instance.endpoints["grpc"]`, func(r *discoveryv1.RegisterRequest) {
			r.Instance.Endpoints = map[string]string{"grpc": "catalog-1:70000"}
		}},
		"many endpoints": {"instance.endpoints", func(r *discoveryv1.RegisterRequest) {
			for i := range registry.MaxEndpoints {
				r.Instance.Endpoints[fmt.Sprint("e", i)] = "a:1"
			}
		}},
		"much metadata": {"instance.metadata", func(r *discoveryv1.RegisterRequest) {
			for i := range registry.MaxMetadata + 1 {
				r.Instance.Metadata[fmt.Sprint(i)] = ""
			}
		}},
		"metadata key": {
			"instance.metadata",
			func(r *discoveryv1.RegisterRequest) { r.Instance.Metadata["\x00"] = "" },
		},
		"size": {"instance", func(r *discoveryv1.RegisterRequest) {
			r.Instance.Metadata["big"] = strings.Repeat("x", registry.MaxInstanceSize)
		}},
		"heartbeat": {
			"heartbeat",
			func(r *discoveryv1.RegisterRequest) { r.Heartbeat = durationpb.New(time.Millisecond) },
		},
		"short lease": {"lease", func(r *discoveryv1.RegisterRequest) { r.Lease = durationpb.New(5 * time.Second) }},
		"long lease":  {"lease", func(r *discoveryv1.RegisterRequest) { r.Lease = durationpb.New(time.Hour) }},
		"tiny lease": {"lease", func(r *discoveryv1.RegisterRequest) {
			r.Heartbeat, r.Lease = nil,
				durationpb.New(time.Millisecond)
		}},
		"long beat": {"heartbeat", func(r *discoveryv1.RegisterRequest) {
			r.Heartbeat, r.Lease = durationpb.New(time.Hour),
				nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inStack(t, func(t *testing.T, s *stack) {
				r := s.replica("discovery-1")
				req := heartbeat("catalog", "1", up)
				req.Instance.Metadata = map[string]string{}
				req.Heartbeat, req.Lease = durationpb.New(3*time.Second), durationpb.New(10*time.Second)
				c.change(req)
				stream, err := s.rpc(r).Register(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := stream.Send(req); err != nil {
					t.Fatal(err)
				}
				_, err = stream.Recv()
				err = errs.FromRPC(err)
				if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), c.field+" must") {
					t.Errorf("got %v, want an invalid %s", err, c.field)
				}
				if n := len(r.list()); n != 0 {
					t.Errorf("%d instances are registered", n)
				}
			})
		})
	}
}

func TestNamesFollowTheCommonRules(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		client := s.rpc(s.replica("discovery-1"))
		try := func(change func(*discoveryv1.Instance)) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			in := &discoveryv1.Instance{Service: "catalog", Id: "1", Reported: discoveryv1.Status_STATUS_UP}
			change(in)
			stream, err := client.Register(ctx)
			if err != nil {
				return err
			}
			if err := stream.Send(&discoveryv1.RegisterRequest{Instance: in}); err != nil {
				return err
			}
			_, err = stream.Recv()
			return errs.FromRPC(err)
		}
		for rule, set := range map[*names.Rule][]func(*discoveryv1.Instance, string){
			&names.Service: {
				func(in *discoveryv1.Instance, name string) { in.Service = name },
				func(in *discoveryv1.Instance, name string) { in.Endpoints = map[string]string{name: "host:1"} },
			},
			&names.ID: {
				func(in *discoveryv1.Instance, name string) { in.Id = name },
				func(in *discoveryv1.Instance, name string) { in.Environment = name },
				func(in *discoveryv1.Instance, name string) { in.Region = name },
				func(in *discoveryv1.Instance, name string) { in.Zone = name },
				func(in *discoveryv1.Instance, name string) { in.Version = name },
			},
		} {
			for _, set := range set {
				namestest.Check(t, *rule, func(name string) error {
					return try(func(in *discoveryv1.Instance) { set(in, name) })
				})
			}
		}
	})
}

func TestInstancesAndWatchersAreLimited(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1", func(o *registry.Options) {
			o.MaxPerService, o.MaxInstances, o.MaxWatchers = 2, 3, 1
		})
		s.joinAll("catalog", 2)
		third := s.join(instance("catalog", "3"), discovery.RegistrarOptions{})
		s.joinAll("viewing", 1)
		fourth := s.join(instance("ratings", "1"), discovery.RegistrarOptions{})
		settle()
		for _, m := range []*member{third, fourth} {
			if ok, why := m.Registered(); ok || !strings.Contains(why, "at most") {
				t.Errorf("beyond the limit: registered %v, %q", ok, why)
			}
		}
		one := s.follow(r)
		two := s.follow(r)
		if one.Synced() != nil || two.Synced() == nil || !strings.Contains(two.Synced().Error(), "limit") {
			t.Errorf("watchers: %v and %v, want the second refused", one.Synced(), two.Synced())
		}
	})
}

func TestWatchOfSomeServices(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := append(s.joinAll("catalog", 1), s.joinAll("viewing", 1)...)
		stream, err := s.rpc(r).Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discoveryv1.WatchRequest{Services: []string{"catalog"}}); err != nil {
			t.Fatal(err)
		}
		next := func() *discoveryv1.WatchResponse {
			t.Helper()
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&discoveryv1.WatchRequest{AppliedVersion: m.GetVersion()}); err != nil {
				t.Fatal(err)
			}
			return m
		}
		first := next()
		if !first.GetSnapshot() || !first.GetWarmingUp() || len(first.GetInstances()) != 1 {
			t.Errorf("the first message is %v, want a snapshot of catalog, warming up", first)
		}
		m[1].SetStatus(discovery.Down)
		settle()
		m[0].SetStatus(discovery.Down)
		settle()
		got := next()
		if got.GetSnapshot() || len(got.GetInstances()) != 1 || got.GetInstances()[0].GetService() != "catalog" ||
			got.GetVersion() <= first.GetVersion() {
			t.Errorf("the second message is %v, want a change of catalog with a higher version", got)
		}
		for got.GetWarmingUp() {
			got = next()
		}
		if err := m[0].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		for len(got.GetRemoved()) == 0 {
			got = next()
		}
		if ref := got.GetRemoved()[0]; ref.GetService() != "catalog" || ref.GetId() != "1" {
			t.Errorf("removed %v, want catalog/1", ref)
		}
	})
}

func TestREST(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		s.joinAll("catalog", 2)
		s.follow(r)
		h := r.Handler()
		for _, c := range []struct {
			method, path, body string
			code               int
			contains           string
		}{
			{"GET", "/v1/instances", "", 200, `"id": "2"`},
			{"GET", "/v1/instances/catalog", "", 200, `"endpoints": {`},
			{"GET", "/v1/instances/unknown", "", 404, `"unknown\" has no instances`},
			{"GET", "/v1/instances/catalog/1", "", 200, `"status": "UP"`},
			{"GET", "/v1/instances/catalog/9", "", 404, "not registered"},
			{
				"PUT", "/v1/instances/catalog/1/override", `{"status":"out_of_service","author":"ann","reason":"disk"}`,
				200, `"status": "OUT_OF_SERVICE"`,
			},
			{"GET", "/v1/instances/catalog/1", "", 200, `"author": "ann"`},
			{"DELETE", "/v1/instances/catalog/1/override", "", 200, `"status": "UP"`},
			{"PUT", "/v1/instances/catalog/9/override", `{"status":"DOWN"}`, 404, "no such instance"},
			{"PUT", "/v1/instances/catalog/1/override", `{"status":"SIDEWAYS"}`, 400, "status"},
			{"GET", "/v1/status", "", 200, `"active": false`},
			{"GET", "/v1/status", "", 200, `"test"`},
			{"GET", "/nothing", "", 404, "there is nothing at /nothing"},
		} {
			req := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			req.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.contains) {
				t.Errorf("%s %s: %d %s, want %d with %s", c.method, c.path, w.Code, w.Body, c.code, c.contains)
			}
			wantType := "application/json"
			if w.Code >= http.StatusBadRequest {
				wantType = "application/problem+json"
			}
			if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, wantType) || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s: content type %q, want %q and valid JSON", c.method, c.path, got, wantType)
			}
		}
	})
}

func TestRESTRefusals(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		h := s.replica("discovery-1").Handler()
		const override = "/v1/instances/catalog/1/override"
		httpapitest.Check(t, h, "PUT", override, `{"status":"DOWN","author":"ann","reason":"disk"}`)
		httpapitest.Check(t, h, "DELETE", override, "")
		for _, path := range []string{"instances", "instances/catalog", "instances/catalog/1", "status"} {
			httpapitest.Check(t, h, "GET", "/v1/"+path, "")
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for problem, o := range map[string]registry.Options{
		"Heartbeat must not be negative":                     {Heartbeat: -time.Second},
		"Lease must be at least two heartbeats of 3s, is 5s": {Lease: 5 * time.Second},
		"Lease must be at least two heartbeats of 9s":        {Heartbeat: 9 * time.Second},
		"Lease must be at least two heartbeats of 3s, is -":  {Lease: -time.Second},
		"PreserveBelow must be between 0 and 1":              {PreserveBelow: 2},
		"PreserveBelow must be between 0 and 1, is -":        {PreserveBelow: -0.1},
		"PreserveAtLeast must not be negative":               {PreserveAtLeast: -1},
		"PreserveFor must not be negative":                   {PreserveFor: -1},
		"MaxWatchers must not be negative":                   {MaxWatchers: -1},
		"MaxPerService must not be negative":                 {MaxPerService: -1},
		"MaxInstances must not be negative":                  {MaxInstances: -1, MaxPerService: -1},
	} {
		if _, err := registry.NewServer(o); errs.KindOf(err) != errs.Invalid ||
			!strings.Contains(err.Error(), problem) {
			t.Errorf("%+v: got %v, want an Invalid error with %q", o, err, problem)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	body, err := protojson.Marshal(&discoveryv1.Instance{Service: "catalog", Id: "1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"owner":"discovery-1-x","heartbeat":"3s","lease":"10s","instance":` + string(body) + `}`))
	f.Add([]byte(`{"heartbeat":"-3s","lease":"10s","instance":{}}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, heartbeat, lease, in, err := registry.DecodeRecord(b)
		if err == nil && (in == nil || heartbeat <= 0 || lease < 2*heartbeat) {
			t.Errorf("accepted heartbeat %v, lease %v, instance %v", heartbeat, lease, in)
		}
	})
}

// During an upgrade, older replicas have to read the records of newer ones.
func TestUnknownFieldsOfARecordAreIgnored(t *testing.T) {
	_, _, _, in, err := registry.DecodeRecord([]byte(
		`{"owner":"x","heartbeat":"3s","lease":"10s","new":1,
			"instance":{"service":"catalog","id":"1","added":{"later":true}}}`,
	))
	if err != nil || in.GetId() != "1" {
		t.Errorf("got %v, %v", in, err)
	}
}
