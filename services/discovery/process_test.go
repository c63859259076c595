package discovery_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	registry "bijou.dev/services/discovery"
)

// Two replicas in one process use both as seeds and register as instances. When one stops, its clients go to the other.
func TestClientsOfAStoppingReplicaGoToTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, store := memnet.New(), kvmem.New()
		defer store.Close()
		seeds := []string{"discovery-1:7000", "discovery-2:7000"}
		type process struct {
			*service.Process
			stop context.CancelFunc
			done chan error
		}
		start := func(name string) *process {
			peer := store.Peer()
			p, err := service.New(t.Context(), service.Options{
				Name: "discovery", Instance: name, Discovery: seeds,
				Listen:    map[string]string{"grpc": name + ":7000", "http": name + ":8761", "admin": name + ":9090"},
				Advertise: name,
				Net:       service.Net{Listen: net.Listen, DialContext: net.DialContext},
			}, func(ctx context.Context, setup *service.Setup) error {
				return registry.New(ctx, setup, registry.Options{Store: peer})
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			run := &process{p, cancel, make(chan error, 1)}
			go func() { run.done <- p.Run(ctx) }()
			return run
		}
		one, two := start("discovery-1"), start("discovery-2")
		after(12 * time.Second)
		for _, p := range []*process{one, two} {
			want(t, p.Instance(), p.Discovery().Instances("discovery"), "discovery-1:UP discovery-2:UP")
		}
		began := time.Now()
		one.stop()
		if err := <-one.done; err != nil {
			t.Error("stopping:", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("stopping took %v: the open streams of clients have delayed it", took)
		}
		after(time.Second)
		want(t, "after one has left", two.Discovery().Instances("discovery"), "discovery-2:UP")
		after(time.Minute)
		want(t, "a minute later", two.Discovery().Instances("discovery"), "discovery-2:UP")
		if err := two.Discovery().Current(); err != nil {
			t.Errorf("after discovery-1 has left, discovery-2 does not follow a registry: %v", err)
		}
		two.stop()
		if err := <-two.done; err != nil {
			t.Error("stopping the last one:", err)
		}
	})
}
