package config_test

import (
	"strings"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"github.com/google/go-cmp/cmp"
)

// families declares patterns of which one contains another.
func families(t *testing.T, c configv1.ConfigClient) {
	t.Helper()
	req := &configv1.DeclareRequest{App: "shop", Properties: []*configv1.Property{
		{Name: "a.*", Type: configv1.Type_TYPE_INT, DefaultValue: "1", Max: "10"},
		{Name: "a.b.*", Type: configv1.Type_TYPE_INT, DefaultValue: "2", Max: "100"},
		{Name: "a.b.c", Type: configv1.Type_TYPE_INT, DefaultValue: "3", Max: "1000"},
	}}
	if _, err := c.Declare(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

func TestTheLongestPatternDeclares(t *testing.T) {
	c, _ := declared(t)
	families(t, c)
	shop := &configv1.Identity{App: "shop", Instance: "1"}
	for _, test := range []struct{ name, def, good, bad string }{
		{"a.x", "1", "10", "11"}, {"a.x.y", "1", "10", "11"}, {"a.b.x", "2", "100", "101"}, {"a.b.c", "3", "1000", "1001"},
	} {
		if got := valueOf(t, c, shop, test.name); got != test.def {
			t.Errorf("the default of %s is %q, want %q", test.name, got, test.def)
		}
		at := func(value string) *configv1.PublishRequest {
			return change(&configv1.Change{Name: test.name, Scope: forApp("shop"), Value: value})
		}
		if _, err := c.Publish(t.Context(), at(test.good)); err != nil {
			t.Errorf("%s=%s: %v", test.name, test.good, err)
		}
		if _, err := c.Publish(t.Context(), at(test.bad)); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s=%s: error %v, want kind invalid", test.name, test.bad, err)
		}
	}
	list, err := c.List(t.Context(), &configv1.ListRequest{App: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, p := range list.GetProperties() {
		for _, v := range p.GetValues() {
			got[p.GetProperty().GetName()] = append(got[p.GetProperty().GetName()], v.GetName())
		}
	}
	want := map[string][]string{"a.*": {"a.x", "a.x.y"}, "a.b.*": {"a.b.x"}, "a.b.c": {"a.b.c"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values by property (-want +got):\n%s", diff)
	}
}

func TestGetReturnsWhatAnInstanceSees(t *testing.T) {
	c, _ := declared(t)
	families(t, c)
	publish(t, c, set("greeting", "hi"), &configv1.Change{Name: "ratio", Scope: forApp(""), Value: "1"})
	all := func(id *configv1.Identity, names ...string) map[string]string {
		t.Helper()
		resp, err := c.Get(t.Context(), &configv1.GetRequest{Identity: id, Names: names})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, v := range resp.GetValues() {
			got[v.GetName()] = v.GetValue()
		}
		return got
	}
	for name, test := range map[string]struct{ got, want map[string]string }{
		"all of catalog": {all(id("1")), map[string]string{
			"search.limit": "20", "search.timeout": "250ms", "search.mode": "fast", "greeting": "hi", "enabled": "true",
			"ratio": "1", "routes": "[]", "labels": "{}", "hystrix.command.*.circuitBreaker.forceOpen": "false",
		}},
		"all of shop": {all(&configv1.Identity{App: "shop"}), map[string]string{
			"ratio": "1", "a.*": "1", "a.b.*": "2", "a.b.c": "3",
		}},
		"of no app": {all(nil), map[string]string{"ratio": "1"}},
		"some": {
			all(id("1"), "greeting", "enabled", "unknown"), map[string]string{"greeting": "hi", "enabled": "true"},
		},
		"a member and pattern": {
			all(&configv1.Identity{App: "shop"}, "a.x", "a.*"), map[string]string{"a.x": "1", "a.*": "1"},
		},
	} {
		if diff := cmp.Diff(test.want, test.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestListHasPropertiesAndValues(t *testing.T) {
	c, _ := declared(t)
	if _, err := c.Declare(t.Context(), &configv1.DeclareRequest{App: "web", Properties: []*configv1.Property{
		{Name: "greeting", Type: configv1.Type_TYPE_STRING, DefaultValue: "hello"},
		{Name: "web.title", Type: configv1.Type_TYPE_STRING, DefaultValue: "Movies"},
	}}); err != nil {
		t.Fatal(err)
	}
	publish(t, c,
		set("greeting", "for catalog"),
		&configv1.Change{Name: "greeting", Scope: forApp("web"), Value: "for web"},
		&configv1.Change{Name: "greeting", Scope: forApp(""), Value: "for all"},
		set("enabled", "false"))
	without := catalog()
	without.Properties = without.Properties[:4] // enabled is not declared any more
	if _, err := c.Declare(t.Context(), without); err != nil {
		t.Fatal(err)
	}
	type entry struct {
		Name, Type   string
		Apps, Values []string
	}
	for name, test := range map[string]struct {
		req  *configv1.ListRequest
		want []entry
	}{
		"a name of two apps": {&configv1.ListRequest{Prefix: "greet"}, []entry{
			{"greeting", "TYPE_STRING", []string{"catalog", "web"}, []string{"for all", "for catalog", "for web"}},
		}},
		"of one app": {&configv1.ListRequest{Prefix: "greet", App: "web"}, []entry{
			{"greeting", "TYPE_STRING", []string{"web"}, []string{"for all", "for web"}},
		}},
		"all of an app": {&configv1.ListRequest{App: "web"}, []entry{
			{"greeting", "TYPE_STRING", []string{"web"}, []string{"for all", "for web"}},
			{"web.title", "TYPE_STRING", []string{"web"}, nil},
		}},
		"no longer declared": {
			&configv1.ListRequest{Prefix: "enabled"}, []entry{{"enabled", "TYPE_UNSPECIFIED", nil, []string{"false"}}},
		},
		"of an app that has not": {&configv1.ListRequest{Prefix: "enabled", App: "web"}, nil},
		"nothing":                {&configv1.ListRequest{Prefix: "x"}, nil},
	} {
		resp, err := c.List(t.Context(), test.req)
		if err != nil {
			t.Fatal(err)
		}
		var got []entry
		for _, p := range resp.GetProperties() {
			e := entry{Name: p.GetProperty().GetName(), Type: p.GetProperty().GetType().String(), Apps: p.GetApps()}
			for _, v := range p.GetValues() {
				e.Values = append(e.Values, v.GetValue())
			}
			got = append(got, e)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestExplainRefusesUnknownNames(t *testing.T) {
	c, _ := declared(t)
	for name, test := range map[string]struct {
		req  *configv1.ExplainRequest
		text string
	}{
		"unknown name": {&configv1.ExplainRequest{Name: "greetings", Identity: id("1")}, "did you mean greeting?"},
		"two similar":  {&configv1.ExplainRequest{Name: "search.lmode", Identity: id("1")}, "did you mean search.mode"},
		"nothing like": {
			&configv1.ExplainRequest{Name: "qqqqqqqqq"}, "has no value for any app and is not declared by any app",
		},
		"unknown app": {
			&configv1.ExplainRequest{Name: "greeting", Identity: &configv1.Identity{App: "catalogs"}}, "did you mean catalog?",
		},
		"not a name": {&configv1.ExplainRequest{Name: "a b\n"}, `explaining "a b\n"`},
		"another's app": {
			&configv1.ExplainRequest{Name: "greeting", Identity: &configv1.Identity{App: "web"}},
			`no app "web" has declared anything`,
		},
	} {
		_, err := c.Explain(t.Context(), test.req)
		if errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: error %v, want kind not found and ...%s...", name, err, test.text)
		}
	}
	ex, err := c.Explain(t.Context(), &configv1.ExplainRequest{Name: "greeting"})
	if err != nil || ex.GetProperty().GetName() != "greeting" || ex.GetCandidates()[0].GetValue().GetValue() != "hello" {
		t.Errorf("without an app: %v, %v, want the declaration of the first app that has one", ex, err)
	}
}
