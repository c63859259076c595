package config_test

import (
	"context"
	"testing"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/platform/memnet"
	"bijou.dev/services/config"
	"bijou.dev/services/config/configtest"

	"google.golang.org/protobuf/types/known/durationpb"
)

// catalog is the declarations of the app that most tests use.
func catalog() *configv1.DeclareRequest {
	return &configv1.DeclareRequest{App: "catalog", Properties: []*configv1.Property{
		{
			Name: "search.limit", Type: configv1.Type_TYPE_INT, DefaultValue: "20", Min: "1", Max: "100",
			Doc: "Most hits on a page.",
		},
		{Name: "search.timeout", Type: configv1.Type_TYPE_DURATION, DefaultValue: "250ms", Max: "10s"},
		{Name: "search.mode", Type: configv1.Type_TYPE_ENUM, DefaultValue: "fast", Options: []string{"fast", "exact"}},
		{Name: "greeting", Type: configv1.Type_TYPE_STRING, DefaultValue: "hello"},
		{Name: "enabled", Type: configv1.Type_TYPE_BOOL, DefaultValue: "true"},
		{Name: "ratio", Type: configv1.Type_TYPE_FLOAT, DefaultValue: "0.5", Min: "0", Max: "1"},
		{
			Name: "routes", Type: configv1.Type_TYPE_JSON, DefaultValue: "[]",
			JsonSchema: `{"type":"array","items":{"type":"string"}}`,
		},
		{Name: "hystrix.command.*.circuitBreaker.forceOpen", Type: configv1.Type_TYPE_BOOL, DefaultValue: "false"},
		{Name: "labels", Type: configv1.Type_TYPE_JSON, DefaultValue: "{}"},
	}}
}

// replicas starts n replicas over one store that know each other.
func replicas(t *testing.T, n int) ([]*configtest.Server, []*kvmem.Store) {
	t.Helper()
	return replicasOf(t, n, nil)
}

// replicasOf starts n replicas that use a registry.
func replicasOf(
	t *testing.T, n int, registered func() ([]discovery.Instance, error),
) ([]*configtest.Server, []*kvmem.Store) {
	t.Helper()
	network := memnet.New()
	first := kvmem.New()
	servers, stores := make([]*configtest.Server, n), make([]*kvmem.Store, n)
	names := []string{"a", "b", "c"}
	for i := range n {
		stores[i] = first
		if i > 0 {
			stores[i] = first.Peer()
		}
		clients := map[string]configv1.ConfigClient{}
		peers := func() map[string]configv1.ConfigClient {
			for j, other := range servers {
				if j != i && clients[names[j]] == nil {
					clients[names[j]] = other.Client(t)
				}
			}
			return clients
		}
		servers[i] = configtest.NewServer(t, &configtest.Options{
			Net: network, Addr: "config-" + names[i] + ":7000",
			Config: config.Options{Store: stores[i], Registered: registered, Peers: peers},
		})
	}
	return servers, stores
}

// declared starts one replica with the catalog declared and returns a client.
func declared(t *testing.T) (configv1.ConfigClient, *kvmem.Store) {
	t.Helper()
	store := kvmem.New()
	c := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: store}}).Client(t)
	declare(t, c)
	return c, store
}

// declare declares the catalog as soon as the replica has read its store.
func declare(t *testing.T, c configv1.ConfigClient) {
	t.Helper()
	eventually(t, func() error {
		_, err := c.Declare(t.Context(), catalog())
		return err
	})
}

// eventually repeats a call until it succeeds.
func eventually(t *testing.T, do func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no success within 30s: %v", err)
		}
	}
}

func at(layer configv1.Layer, app, selector string) *configv1.Scope {
	return &configv1.Scope{Layer: layer, App: app, Selector: selector}
}

func forApp(app string) *configv1.Scope { return at(configv1.Layer_LAYER_APP, app, "") }

func set(name, value string) *configv1.Change {
	return &configv1.Change{Name: name, Scope: forApp("catalog"), Value: value}
}

func remove(name string) *configv1.Change {
	return &configv1.Change{Name: name, Scope: forApp("catalog"), Remove: true}
}

func override(name, value string, ttl time.Duration) *configv1.Change {
	return &configv1.Change{
		Name: name, Scope: at(configv1.Layer_LAYER_OVERRIDE, "catalog", ""), Value: value, Ttl: durationpb.New(ttl),
	}
}

// publish publishes as ann and returns the revision.
func publish(t *testing.T, c configv1.ConfigClient, changes ...*configv1.Change) int64 {
	t.Helper()
	resp, err := c.Publish(t.Context(), &configv1.PublishRequest{Changes: changes, Author: "ann", Reason: "test"})
	if err != nil {
		t.Fatalf("publishing: %v", err)
	}
	return resp.GetRevision()
}

func revisionOf(t *testing.T, c configv1.ConfigClient) int64 {
	t.Helper()
	resp, err := c.Get(t.Context(), &configv1.GetRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetRevision()
}

// valueOf returns the value of one name that an instance sees, "" if there is none.
func valueOf(t *testing.T, c configv1.ConfigClient, id *configv1.Identity, name string) string {
	t.Helper()
	resp, err := c.Get(t.Context(), &configv1.GetRequest{Identity: id, Names: []string{name}})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetValues()) == 0 {
		return ""
	}
	return resp.GetValues()[0].GetValue()
}

func id(instance string) *configv1.Identity {
	return &configv1.Identity{
		App: "catalog", Instance: instance, Environment: "prod", Region: "eu", Zone: "eu-1", Version: "v2",
	}
}

// wantKind fails the test if an error has another kind, and returns the text of the error.
func wantKind(t *testing.T, err error, want errs.Kind) string {
	t.Helper()
	if err == nil || errs.KindOf(err) != want {
		t.Fatalf("got error %v of kind %v, want kind %v", err, errs.KindOf(err), want)
	}
	return err.Error()
}

func wantInvalid(t *testing.T, err error) string {
	t.Helper()
	return wantKind(t, err, errs.Invalid)
}
