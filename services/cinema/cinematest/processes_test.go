package cinematest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/audience"
	"bijou.dev/services/cinema/catalog"
	"bijou.dev/services/cinema/playback"
	"bijou.dev/services/cinema/profiles"
	"bijou.dev/services/cinema/ratings"
	"bijou.dev/services/cinema/recommendations"
	"bijou.dev/services/cinema/search"
	"bijou.dev/services/cinema/viewing"
	"bijou.dev/services/cinema/web"
)

// setups has the setup function of each service, by name.
var setups = map[string]service.SetupFunc{
	"audience": func(ctx context.Context, setup *service.Setup) error {
		return audience.New(ctx, setup, audience.Options{Target: "http://web-1:8080"})
	},
	"catalog": catalog.New,
	"playback": func(ctx context.Context, setup *service.Setup) error {
		return playback.New(ctx, setup, playback.Options{})
	},
	"profiles": func(ctx context.Context, setup *service.Setup) error {
		return profiles.New(ctx, setup, profiles.Options{})
	},
	"ratings": func(ctx context.Context, setup *service.Setup) error {
		return ratings.New(ctx, setup, ratings.Options{})
	},
	"recommendations": recommendations.New,
	"search":          search.New,
	"viewing": func(ctx context.Context, setup *service.Setup) error {
		return viewing.New(ctx, setup, viewing.Options{})
	},
	"web": web.New,
}

// start starts an instance and returns its host name.
func start(t *testing.T, net *memnet.Network, name string, n int) string {
	t.Helper()
	host := fmt.Sprintf("%s-%d", name, n)
	listen := map[string]string{"grpc": host + ":7000", "admin": host + ":9090"}
	if name == "web" {
		listen["http"] = host + ":8080"
	}
	p, err := service.New(t.Context(), service.Options{
		Name: name, Instance: host, Net: service.Net{Listen: net.Listen, DialContext: net.DialContext},
		StateDir: t.TempDir(), Listen: listen, Drain: 100 * time.Millisecond,
	}, setups[name])
	if err != nil {
		t.Fatalf("%s: %v", host, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", host, err)
		}
	})
	return host
}

// Two instances of each service run in one process. They cannot reach other services, and all are ready.
func TestTwoInstancesOfEachServiceRunWithoutTheOthers(t *testing.T) {
	net := memnet.New()
	client := &http.Client{Transport: &http.Transport{DialContext: net.DialContext, DisableKeepAlives: true}}
	get := func(url string) (int, string) {
		t.Helper()
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for name := range setups {
		for n := range 2 {
			host := start(t, net, name, n+1)
			if status, body := get("http://" + host + ":9090/readyz"); status != 200 {
				t.Errorf("%s is not ready: %s", host, body)
			}
		}
	}
	if status, body := get("http://web-2:8080/"); status != 200 || !strings.Contains(body, "Temporarily unavailable") {
		t.Errorf("home page without other services: status %d, want 200 and a page that says so:\n%s", status, body)
	}
	if _, body := get("http://catalog-1:9090/metrics"); !strings.Contains(body, `cinema_films_findings{`) ||
		!strings.Contains(body, `kind="impossible_date"`) {
		t.Error("/metrics of catalog does not have the report of the film data")
	}
	if _, body := get("http://playback-1:9090/metrics"); !strings.Contains(body, "cinema_playback_undelivered") {
		t.Error("/metrics of playback does not have the number of undelivered sessions")
	}
}
