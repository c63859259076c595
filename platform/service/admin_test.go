package service_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/httpapi/httpapitest"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
)

// publisher is a config service with one override.
type publisher struct {
	configv1.UnimplementedConfigServer
}

func (publisher) Declare(context.Context, *configv1.DeclareRequest) (*configv1.DeclareResponse, error) {
	return &configv1.DeclareResponse{}, nil
}

func (publisher) Watch(stream configv1.Config_WatchServer) error {
	err := stream.Send(&configv1.WatchResponse{Revision: 9, Snapshot: true, Values: []*configv1.Value{{
		Name: "trace.sampling", Value: "0.25", Revision: 7, Layer: configv1.Layer_LAYER_OVERRIDE,
		Scope: &configv1.Scope{Layer: configv1.Layer_LAYER_OVERRIDE, App: "hello"},
	}}})
	if err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// The admin page shows what the process uses at this moment: settings with revision and layer, circuits, instances.
func TestAdminPagesShowWhatIsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		l, err := n.Listen("tcp", "config:7000")
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer()
		configv1.RegisterConfigServer(srv, publisher{})
		go func() { _ = srv.Serve(l) }() // ends with Stop
		defer srv.Stop()
		o := standalone(n, "hello-1")
		o.Known = discovery.NewStatic(map[string][]discovery.Instance{
			"config": {{ID: "config-1", Zone: "b", Endpoints: map[string]string{"grpc": "config:7000"}}},
		})
		p, stop := run(t, o, greet)
		defer stop()
		time.Sleep(10 * time.Second)
		down := errors.New("down")
		for range 20 {
			_ = p.Circuits().Do(t.Context(), circuit.Key{Group: "catalog", Method: "GetMovie"},
				func(context.Context) error { return down })
		}
		page := func(path string, into any) {
			t.Helper()
			code, body := get(t, n, "http://hello-1:9090"+path)
			if err := json.Unmarshal([]byte(body), into); err != nil || code != 200 {
				t.Errorf("GET %s: %d, %v: %.500s", path, code, err, body)
			}
		}

		var settings struct {
			Revision  int64
			Connected bool
			Settings  []config.Entry
		}
		page("/config", &settings)
		shown := map[string]config.Entry{}
		for _, e := range settings.Settings {
			shown[e.Name] = e
		}
		if e := shown["trace.sampling"]; settings.Revision != 9 || !settings.Connected || e.Value != "0.25" ||
			e.Default != "1" || e.Layer != "override" || e.Scope != "hello" || e.Revision != 7 {
			t.Errorf("/config is at revision %d, connected %v, and shows %+v", settings.Revision, settings.Connected, e)
		}
		if e := shown["route.slowStart.window"]; e.Layer != "default" || e.Value != "10s" || e.Doc == "" {
			t.Errorf("/config shows %+v", e)
		}

		var circuits struct {
			Service  string
			Circuits []struct{ Name, State, Reason string }
		}
		page("/circuits", &circuits)
		if len(circuits.Circuits) != 1 || circuits.Circuits[0].Name != "catalog.GetMovie" ||
			circuits.Circuits[0].State != "STATE_OPEN" || circuits.Circuits[0].Reason == "" {
			t.Errorf("/circuits shows %+v", circuits)
		}

		var instances any
		page("/instances?service=config", &instances)
		if d := cmp.Diff([]any{map[string]any{
			"service": "config", "id": "config-1", "zone": "b", "status": "UP",
			"endpoints": map[string]any{"grpc": "config:7000"},
		}}, instances); d != "" {
			t.Errorf("/instances?service=config differs (-want +got):\n%s", d)
		}
		page("/instances?service=unknown", &instances)
		if d := cmp.Diff([]any{}, instances); d != "" {
			t.Errorf("/instances of a service without instances differs (-want +got):\n%s", d)
		}

		var version struct{ Service, Instance, Version, Zone, Go, Started string }
		page("/version", &version)
		if version.Service != "hello" || version.Instance != "hello-1" || version.Version != "v1" ||
			version.Zone != "b" ||
			version.Go == "" || version.Started == "" {
			t.Errorf("/version shows %+v", version)
		}

		for path, want := range map[string]string{
			"/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/heap?debug=1": "heap profile",
			"/debug/pprof/cmdline": "",
			"/debug/pprof/symbol":  "num_symbols",
			"/metrics":             "bijou_config_revision 9",
		} {
			if code, body := get(t, n, "http://hello-1:9090"+path); code != 200 || !strings.Contains(body, want) {
				t.Errorf("GET %s: %d, want 200 with %q", path, code, want)
			}
		}
	})
}

func TestAdminPagesRefuseWrongRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := standalone(memnet.New(), "hello-1")
		o.Crash = func() { t.Error("a wrong request killed the process") }
		p, stop := run(t, o, greet)
		defer stop()
		h := service.AdminPages(p)
		for _, path := range []string{
			"/healthz", "/readyz", "/version", "/config", "/circuits", "/overload", "/instances", "/balancers",
			"/metrics", "/hystrix.stream", "/debug/pprof/", "/",
		} {
			httpapitest.Check(t, h, http.MethodGet, path, "")
		}
		httpapitest.Check(t, h, http.MethodPost, "/kill", `{"author":"ann","reason":"game day","for":"20s"}`)
		time.Sleep(time.Minute) // longer than it takes to kill a process
	})
}

func TestAdminPageStreamsCircuits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		p, stop := run(t, standalone(n, "hello-1"), greet)
		defer stop()
		_ = p.Circuits().Do(t.Context(), circuit.Key{Group: "catalog", Method: "GetMovie"},
			func(context.Context) error { return nil })
		resp, err := client(n).Get("http://hello-1:9090/hystrix.stream")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK ||
			!strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
			t.Errorf("got %s of type %s", resp.Status, resp.Header.Get("Content-Type"))
		}
		lines := bufio.NewScanner(resp.Body)
		for seen := 0; seen < 3 && lines.Scan(); { // the profile continues while the client reads
			var event struct{ Type, Name string }
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			if err := json.Unmarshal([]byte(data), &event); err != nil {
				t.Fatal(err)
			}
			if event.Type == "HystrixCommand" {
				seen++
				if event.Name != "catalog.GetMovie" {
					t.Errorf("the stream has circuit %q", event.Name)
				}
			}
		}
		if err := lines.Err(); err != nil {
			t.Error(err)
		}
	})
}
