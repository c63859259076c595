package config_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
)

func TestDeclareIsIdempotent(t *testing.T) {
	c, store := declared(t)
	before := storeRevision(t, store)
	if _, err := c.Declare(t.Context(), catalog()); err != nil {
		t.Fatal(err)
	}
	if after := storeRevision(t, store); after != before {
		t.Error("declaring the same again wrote to the store")
	}
	fewer := catalog()
	fewer.Properties = fewer.Properties[:1]
	if _, err := c.Declare(t.Context(), fewer); err != nil {
		t.Fatal(err)
	}
	_, err := c.Publish(t.Context(), change(set("greeting", "x")))
	wantInvalid(t, err)
}

func TestDeclareRefusals(t *testing.T) {
	c, _ := declared(t)
	one := catalog().GetProperties()[0]
	many := make([]*configv1.Property, 2001)
	for i := range many {
		many[i] = &configv1.Property{Name: fmt.Sprintf("p%d", i), Type: configv1.Type_TYPE_BOOL, DefaultValue: "true"}
	}
	large := make([]*configv1.Property, 10)
	for i := range large {
		large[i] = &configv1.Property{
			Name: fmt.Sprintf("p%d", i), Type: configv1.Type_TYPE_STRING, Doc: strings.Repeat("x", 100<<10),
		}
	}
	for name, test := range map[string]struct {
		app        string
		properties []*configv1.Property
		text       string
	}{
		"no app":              {"", nil, "app must be 1 to 63 lower-case letters"},
		"app of another form": {"Cat.alog", nil, "app must be 1 to 63 lower-case letters"},
		"the same name twice": {
			"a", []*configv1.Property{one, one}, "properties[1].name must not be declared twice, is properties[0] too",
		},
		"no type": {"a", []*configv1.Property{{Name: "x"}}, "properties[0]"},
		"a default that does not fit": {"a", []*configv1.Property{
			one, {Name: "x", Type: configv1.Type_TYPE_INT, DefaultValue: "x"},
		}, "properties[1]"},
		"a schema with a reference": {"a", []*configv1.Property{
			{Name: "x", Type: configv1.Type_TYPE_JSON, DefaultValue: "1", JsonSchema: `{"$ref":"#"}`},
		}, "references"},
		"too many properties":    {"a", many, "properties must be at most 2000"},
		"too large to be stored": {"a", large, "properties must be at most 2000 in 921600 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Declare(t.Context(), &configv1.DeclareRequest{App: test.app, Properties: test.properties})
			wantInvalid(t, err)
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("text is %q, want ...%s...", err, test.text)
			}
		})
	}
	if _, err := c.Declare(t.Context(), &configv1.DeclareRequest{App: "many", Properties: many[:2000]}); err != nil {
		t.Errorf("declaring 2000 properties: %v", err)
	}
}

// Of two replicas that get different declarations of one app at the same moment, both succeed, and one replaces the
// other.
func TestReplicasDeclareAtOnce(t *testing.T) {
	servers, stores := replicas(t, 2)
	clients := []configv1.ConfigClient{servers[0].Client(t), servers[1].Client(t)}
	for _, c := range clients {
		declare(t, c)
	}
	var group sync.WaitGroup
	for i, c := range clients {
		group.Go(func() {
			for n := range 20 {
				req := catalog()
				req.Properties[0].Doc = fmt.Sprintf("version %d of replica %d", n, i)
				if _, err := c.Declare(t.Context(), req); err != nil {
					t.Errorf("replica %d: %v", i, err)
				}
			}
		})
	}
	group.Wait()
	e, err := stores[0].Get(t.Context(), "/bijou/config/live/apps/catalog")
	if err != nil || !strings.Contains(string(e.Value), "version 19 of replica") {
		t.Errorf("the store has %.200s, %v, want the last version of a replica", e.Value, err)
	}
}
