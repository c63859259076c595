package config_test

import (
	"fmt"
	"strings"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"

	"google.golang.org/protobuf/encoding/protojson"
)

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.b.c", false},
		{"a.*.c", "a.b.c", true},
		{"a.*.c", "a.b.b.c", true},
		{"a.*.c", "a.c", false},
		{"a.*.c", "a..c", false},
		{"a.*.c", "xa.b.c", false},
		{"a.*.c", "a.b.c.d", false},
		{"a.*.c", "a.*.c", false},
		{"a.*", "a.b", true},
		{"a.*", "a", false},
		{"*.c", "b.c", true},
		{"*.c", "c", false},
		{"*.c", "bc", false},
	} {
		p, err := config.ParseProperty(&configv1.Property{
			Name: test.pattern, Type: configv1.Type_TYPE_BOOL, DefaultValue: "true",
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(test.name); got != test.want {
			t.Errorf("%s matches %s: %t, want %t", test.pattern, test.name, got, test.want)
		}
	}
}

func TestSchemasThatCouldHarmAreRefused(t *testing.T) {
	for name, schema := range map[string]string{
		"reference to itself": `{"$ref":"#"}`,
		"dynamic reference":   `{"$dynamicRef":"#x","$dynamicAnchor":"x"}`,
		"remote reference":    `{"properties":{"a":{"$ref":"https://example.com/schema"}}}`,
		"too deep":            strings.Repeat(`{"items":`, 65) + "{}" + strings.Repeat("}", 65),
		"not JSON":            `{`,
		"bad expression":      `{"pattern":"("}`,
		"too large":           `{"title":"` + strings.Repeat("x", config.MaxText) + `"}`,
	} {
		_, err := config.ParseProperty(&configv1.Property{
			Name: "a", Type: configv1.Type_TYPE_JSON, DefaultValue: "1", JsonSchema: schema,
		})
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "json_schema") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestApplies(t *testing.T) {
	me := &configv1.Identity{
		App: "catalog", Instance: "c-1", Environment: "prod", Region: "eu", Zone: "eu-1", Version: "v1",
	}
	for _, test := range []struct {
		layer         configv1.Layer
		app, selector string
		want          bool
	}{
		{configv1.Layer_LAYER_APP, "", "", true},
		{configv1.Layer_LAYER_APP, "catalog", "", true},
		{configv1.Layer_LAYER_APP, "search", "", false},
		{configv1.Layer_LAYER_ENVIRONMENT, "", "prod", true},
		{configv1.Layer_LAYER_ENVIRONMENT, "", "test", false},
		{configv1.Layer_LAYER_REGION, "", "eu", true},
		{configv1.Layer_LAYER_ZONE, "catalog", "eu-1", true},
		{configv1.Layer_LAYER_ZONE, "catalog", "", false},
		{configv1.Layer_LAYER_VERSION, "", "v1", true},
		{configv1.Layer_LAYER_INSTANCE, "", "c-1", true},
		{configv1.Layer_LAYER_OVERRIDE, "", "", true},
		{configv1.Layer_LAYER_OVERRIDE, "search", "", false},
		{configv1.Layer_LAYER_DEFAULT, "", "", false},
		{99, "", "", false},
	} {
		scope := &configv1.Scope{Layer: test.layer, App: test.app, Selector: test.selector}
		if got := config.Applies(scope, me); got != test.want {
			t.Errorf("%v: %t, want %t", scope, got, test.want)
		}
	}
}

// FuzzProperty holds that no declaration and no value makes the checks panic or hang, and that what is accepted fits.
func FuzzProperty(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"name":"a","type":"TYPE_INT","defaultValue":"1","min":"0","max":"9"}`, "10"},
		{`{"name":"a.*.b","type":"TYPE_FLOAT","defaultValue":"1e3"}`, "0x1p-2"},
		{`{"name":"a","type":"TYPE_DURATION","defaultValue":"1s","max":"1h"}`, "-1ns"},
		{`{"name":"a","type":"TYPE_ENUM","defaultValue":"x","options":["x","y"]}`, "y"},
		{
			`{"name":"a","type":"TYPE_JSON","defaultValue":"{}","jsonSchema":"{\"type\":\"object\",\"required\":[\"a\"]}"}`,
			`{"a":[1,{"b":null}]}`,
		},
		{
			`{"name":"a","type":"TYPE_JSON","defaultValue":"[]",` +
				`"jsonSchema":"{\"items\":{\"pattern\":\"^a+$\"},\"uniqueItems\":true}"}`,
			`["a","a"]`,
		},
		{`{"name":"a","type":"TYPE_BOOL","defaultValue":"true"}`, "false"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, declaration, value string) {
		var p configv1.Property
		if protojson.Unmarshal([]byte(declaration), &p) != nil {
			return
		}
		prop, err := config.ParseProperty(&p)
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Errorf("%s: %v is not of kind invalid", declaration, err)
			}
			return
		}
		if err := prop.Check(p.GetDefaultValue()); err != nil {
			t.Errorf("%s: accepted with a default that %v", declaration, err)
		}
		_ = prop.Check(value)
		if prop.Match(value) && config.CheckName(value) != nil && value != p.GetName() {
			t.Errorf("%s matches %q, which is not a name", declaration, value)
		}
	})
}

type shelf struct{ Books []int }

// JSONSchema says more than the type.
func (shelf) JSONSchema() string {
	return `{"type":"object","additionalProperties":false,"properties":{"Books":{"type":"array","maxItems":2,
		"items":{"type":"integer","minimum":1,"description":"must be the number of a book, from 1"}}}}`
}

func TestSchemaOfATypesOwn(t *testing.T) {
	set := config.Static(map[string]string{"shelf": `{"Books":[0]}`})
	config.JSON(set, "shelf", shelf{Books: []int{}}, config.Spec{})
	want := "must fit its JSON schema: Books[] must be the number of a book, from 1"
	if got := set.Entries()[0].Problem; got != want {
		t.Errorf("the problem is %q, want %q", got, want)
	}
	for text, want := range map[string]string{
		`{"Books":[1,2,3]}`: "Books: maxItems", `{"Book":[]}`: "unexpected additional properties",
		`[]`: "type", `{"Books":[1]}`: "",
	} {
		err := set.Put("shelf", text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

func TestDeclarationsAtTheirBounds(t *testing.T) {
	options := make([]string, 1001)
	for i := range options {
		options[i] = fmt.Sprint(i)
	}
	nested := func(depth int) string {
		return strings.Repeat(`{"items":`, depth-1) + "{}" + strings.Repeat("}", depth-1)
	}
	name := strings.Repeat("n", config.MaxName)
	for what, test := range map[string]struct {
		p    *configv1.Property
		want string // part of the problem; empty: accepted
	}{
		"longest name": {&configv1.Property{Name: name, Type: configv1.Type_TYPE_STRING}, ""},
		"longer name": {
			&configv1.Property{Name: name + "n", Type: configv1.Type_TYPE_STRING},
			"name must have 1 to 256",
		},
		"most options": {&configv1.Property{
			Name: "a", Type: configv1.Type_TYPE_ENUM, DefaultValue: "1", Options: options[:1000],
		}, ""},
		"more options": {&configv1.Property{
			Name: "a", Type: configv1.Type_TYPE_ENUM, DefaultValue: "1", Options: options,
		}, "options must be 1 to 1000, are 1001"},
		"options of a number": {&configv1.Property{
			Name: "a", Type: configv1.Type_TYPE_INT, DefaultValue: "1", Options: []string{"1"},
		}, "options are for enumerations only"},
		"deepest schema": {&configv1.Property{
			Name: "a", Type: configv1.Type_TYPE_JSON, DefaultValue: "1", JsonSchema: nested(64),
		}, ""},
		"deeper schema": {&configv1.Property{
			Name: "a", Type: configv1.Type_TYPE_JSON, DefaultValue: "1", JsonSchema: nested(65),
		}, "nest at most 64 deep"},
		"schema of a number": {&configv1.Property{
			Name: "a", Type: configv1.Type_TYPE_INT, DefaultValue: "1", JsonSchema: "{}",
		}, "is for JSON only"},
		"bounds that are equal": {&configv1.Property{
			Name: "a", Type: configv1.Type_TYPE_DURATION, DefaultValue: "1s", Min: "1s", Max: "1s",
		}, ""},
		"last known type": {&configv1.Property{Name: "a", Type: configv1.Type_TYPE_JSON, DefaultValue: "1"}, ""},
		"unknown type":    {&configv1.Property{Name: "a", Type: configv1.Type_TYPE_JSON + 1}, "one of the known types"},
		"no type":         {&configv1.Property{Name: "a"}, "one of the known types"},
	} {
		_, err := config.ParseProperty(test.p)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: refused: %v", what, err)
		case test.want != "" && (errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: error %v, want ...%s...", what, err, test.want)
		}
	}
}

func TestAKeyTwiceIsRefused(t *testing.T) {
	p, err := config.ParseProperty(&configv1.Property{Name: "a", Type: configv1.Type_TYPE_JSON, DefaultValue: "{}"})
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		`{"a":1,"b":{"a":1}}`:       "",
		`{"a":1,"b":{"c":1},"a":2}`: `"a" must not be given twice`,
		`[{"a":1,"b":[],"b":1}]`:    `"[0].b" must not be given twice`,
	} {
		err := p.Check(value)
		if (want != "") != (err != nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", value, err, want)
		}
	}
}
