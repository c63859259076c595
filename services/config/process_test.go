package config_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/service"
	"bijou.dev/services/config"
)

// TestTwoProcesses runs two whole replicas, as main does, side by side.
func TestTwoProcesses(t *testing.T) {
	network := memnet.New()
	store := kvmem.New()
	web := &http.Client{Transport: &http.Transport{DialContext: network.DialContext}}
	for _, host := range []string{"config-1", "config-2"} {
		p, err := service.New(t.Context(), service.Options{
			Name: "config", Instance: host, Advertise: host,
			Listen: map[string]string{"grpc": host + ":7000", "admin": host + ":9090", "http": host + ":8080"},
			Net:    service.Net{Listen: network.Listen, DialContext: network.DialContext},
		}, func(ctx context.Context, setup *service.Setup) error {
			return config.New(ctx, setup, config.Options{Store: store.Peer()})
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Errorf("running %s: %v", host, err)
			}
		})
		t.Cleanup(func() { cancel(); done.Wait() })
		client := rpc.NewClient(rpc.ClientOptions{DialContext: network.DialContext})
		conn, err := client.Dial("passthrough:///" + host + ":7000")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		c := configv1.NewConfigClient(conn)
		declare(t, c)
		publish(t, c, set("greeting", host))
		for _, url := range []string{"http://" + host + ":8080/v1/history", "http://" + host + ":9090/readyz"} {
			eventually(t, func() error {
				resp, err := web.Get(url)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s", url, resp.Status)
				}
				return nil
			})
		}
	}
}

func TestOptionsNameTheField(t *testing.T) {
	for name, o := range map[string]config.Options{
		"EtcdEndpoints": {}, "MaxValueBytes": {Store: kvmem.New(), MaxValueBytes: -1},
		"MaxChanges": {Store: kvmem.New(), MaxChanges: 127},
	} {
		_, err := config.NewServer(o)
		if got := wantInvalid(t, err); !strings.HasPrefix(got, "config options: "+name+" must ") {
			t.Errorf("text is %q, want it to name %s only", got, name)
		}
	}
}

func TestOptionsAtTheirBounds(t *testing.T) {
	for name, test := range map[string]struct {
		o  config.Options
		ok bool
	}{
		"most changes":         {config.Options{Store: kvmem.New(), MaxChanges: 126}, true},
		"one change more":      {config.Options{Store: kvmem.New(), MaxChanges: 127}, false},
		"negative changes":     {config.Options{Store: kvmem.New(), MaxChanges: -1}, false},
		"largest value":        {config.Options{Store: kvmem.New(), MaxValueBytes: 256 << 10}, true},
		"value larger by one":  {config.Options{Store: kvmem.New(), MaxValueBytes: 256<<10 + 1}, false},
		"endpoints, no store":  {config.Options{EtcdEndpoints: []string{"etcd:2379"}}, true},
		"neither one of these": {config.Options{}, false},
	} {
		s, err := config.NewServer(test.o)
		if test.ok != (err == nil) {
			t.Errorf("%s: error %v, want accepted %t", name, err, test.ok)
		}
		if err == nil {
			if err := s.Close(); err != nil {
				t.Errorf("%s: closing: %v", name, err)
			}
		}
	}
}
