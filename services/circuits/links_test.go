package circuits_test

import (
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/load"
	"bijou.dev/services/circuits"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"
)

// callsOf is a circuit of catalog that had these latencies.
func callsOf(method string, latencies ...time.Duration) *circuitsv1.Snapshot {
	var m load.Meter
	for _, d := range latencies {
		m.Record(0, load.Succeeded, d)
	}
	l := m.Load(load.Window)
	return &circuitsv1.Snapshot{
		Name: "catalog." + method, Group: "catalog", State: circuitsv1.State_STATE_CLOSED, Load: l.Proto(),
	}
}

func getLinks(t *testing.T, client circuitsv1.CircuitsClient) *circuitsv1.LinksResponse {
	t.Helper()
	resp, err := client.Links(t.Context(), &circuitsv1.LinksRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// assertLinks compares the links that a replica serves with want.
func assertLinks(t *testing.T, client circuitsv1.CircuitsClient, want *circuitsv1.LinksResponse) {
	t.Helper()
	if diff := cmp.Diff(want, getLinks(t, client), protocmp.Transform()); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}

func TestLinksAddUpCircuitsInstancesAndReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, one, _ := w.replica(t, "circuits-1", circuits.Options{})
		_, two, _ := w.replica(t, "circuits-2", circuits.Options{})
		slow := opened(callsOf("Search", time.Second, time.Second))
		send(t, reporter(t, one), report("web", "web-1", callsOf("GetMovie", 10*time.Millisecond), slow))
		send(t, reporter(t, two), report("web", "web-2", callsOf("GetMovie", 20*time.Millisecond)))
		send(t, reporter(t, two), report("search", "search-1", callsOf("List", 30*time.Millisecond)))
		served := loadOf(40, 4, 5*time.Millisecond)
		send(t, reporter(t, one), &circuitsv1.ReportRequest{
			Service: "gateway", Instance: "gateway-1", Served: served.Proto(), Internet: true,
		})
		send(t, reporter(t, two), &circuitsv1.ReportRequest{
			Service: "catalog", Instance: "catalog-1", Served: served.Proto(),
		})
		time.Sleep(1100 * time.Millisecond) // replicas exchange their state each second
		synctest.Wait()

		sum := func(snaps ...*circuitsv1.Snapshot) *circuitsv1.Figures {
			var l load.Load
			for _, s := range snaps {
				l.AddProto(s.Load)
			}
			return l.Figures()
		}
		fromSearch := sum(callsOf("", 30*time.Millisecond))
		fromWeb := sum(callsOf("", 10*time.Millisecond, 20*time.Millisecond, time.Second, time.Second))
		toCatalog := sum(callsOf("", 10*time.Millisecond, 20*time.Millisecond, time.Second, time.Second,
			30*time.Millisecond))
		want := &circuitsv1.LinksResponse{
			Links: []*circuitsv1.Link{
				{From: "INTERNET", To: "gateway", Figures: served.Figures()},
				{From: "search", To: "catalog", Figures: fromSearch},
				{From: "web", To: "catalog", Figures: fromWeb, NotClosed: []string{"catalog.Search"}},
			},
			Services: []*circuitsv1.ServiceLoad{
				{Service: "catalog", Figures: toCatalog},
				{Service: "gateway", Figures: served.Figures()},
			},
			Instances: []*circuitsv1.InstanceLoad{
				{Service: "catalog", Instance: "catalog-1", Figures: served.Figures()},
				{Service: "gateway", Instance: "gateway-1", Figures: served.Figures()},
			},
		}
		assertLinks(t, one, want)
		assertLinks(t, two, want)
	})
}

// The mean of the instances' p99 would be far from the p99 of all calls: 910 ms instead of 1 s.
func TestPercentilesOfTwoInstancesAreThoseOfAllTheirCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		fast, slow := make([]time.Duration, 1000), make([]time.Duration, 100)
		for i := range fast {
			fast[i] = time.Duration(i+1) * 10 * time.Microsecond
		}
		for i := range slow {
			slow[i] = time.Second + time.Duration(i)*time.Millisecond
		}
		send(t, reporter(t, client), report("web", "web-1", callsOf("GetMovie", fast...)))
		send(t, reporter(t, client), report("web", "web-2", callsOf("GetMovie", slow...)))

		all := slices.Sorted(slices.Values(slices.Concat(fast, slow)))
		figures := getLinks(t, client).Links[0].Figures
		for name, p := range map[string]struct{ got, percent float64 }{
			"p50": {figures.GetP50Ms(), 50}, "p90": {figures.GetP90Ms(), 90}, "p99": {figures.GetP99Ms(), 99},
		} {
			rank := int(math.Ceil(p.percent / 100 * float64(len(all))))
			want := float64(all[rank-1]) / float64(time.Millisecond)
			if math.Abs(p.got-want) > load.MaxError*want {
				t.Errorf("%s is %v ms, want %v ms within %v", name, p.got, want, load.MaxError)
			}
		}
	})
}

func TestLinkIsMeasuringUntilItsWindowIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		young, none := callsOf("GetMovie", time.Millisecond), callsOf("GetMovie", time.Millisecond)
		young.Load.Measured.Seconds, none.Load = 9, nil
		stream := reporter(t, client)
		send(t, stream, report("web", "web-1", young))
		send(t, reporter(t, client), report("search", "search-1", none))
		want := &circuitsv1.LinksResponse{
			Links:    []*circuitsv1.Link{{From: "search", To: "catalog"}, {From: "web", To: "catalog"}},
			Services: []*circuitsv1.ServiceLoad{{Service: "catalog"}},
		}
		assertLinks(t, client, want)
		if got := watch(t, client, "web")[0].Circuits[0].Figures; got != nil {
			t.Errorf("a circuit measured for 9 s has figures %v, want none", got)
		}

		old := callsOf("GetMovie", time.Millisecond)
		send(t, stream, report("web", "web-1", old))
		if got := getLinks(t, client).Links[1].Figures; got.GetCallsPerSecond() != 0.1 {
			t.Errorf("one call in a complete window gives %v, want 0.1 calls per second", got)
		}
	})
}

func TestWatchOfAllServicesHasTheLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		board, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		send(t, reporter(t, client), report("web", "web-1", getMovie(100, 10)))
		links := getLinks(t, client)
		for service, want := range map[string]*circuitsv1.LinksResponse{"": links, "web": nil} {
			stream, err := client.Watch(t.Context(), &circuitsv1.WatchRequest{Service: service})
			if err != nil {
				t.Fatal(err)
			}
			resp, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, resp.Links, protocmp.Transform()); diff != "" {
				t.Errorf("links of a watch of %q (-want +got):\n%s", service, diff)
			}
			if c := resp.Services[0].Circuits[0]; c.Load != nil {
				t.Errorf("a watch of %q has a histogram %v, want figures only", service, c.Load)
			}
		}
		rec := httptest.NewRecorder()
		board.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/v1/links", nil))
		var got circuitsv1.LinksResponse
		if err := protojson.Unmarshal(rec.Body.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", rec.Body, err)
		}
		if diff := cmp.Diff(links, &got, protocmp.Transform()); diff != "" {
			t.Errorf("GET /v1/links (-want +got):\n%s", diff)
		}
	})
}
