package errorpage_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/errorpage"
)

func compile(t testing.TB, list errorpage.Pages) *errorpage.Table {
	t.Helper()
	table, err := errorpage.Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func schema(t testing.TB) *config.Property {
	t.Helper()
	p, err := config.ParseProperty(&configv1.Property{
		Name: "pages", Type: configv1.Type_TYPE_JSON, DefaultValue: "[]", JsonSchema: errorpage.Pages(nil).JSONSchema(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheMostSpecificPageIsUsed(t *testing.T) {
	table := compile(t, errorpage.Pages{
		{HTML: "any"},
		{HTML: "any 404", Status: []int{404}},
		{Host: "*.example.org", HTML: "below"},
		{Host: "*.shop.example.org", HTML: "shop"},
		{Host: "www.example.org", Status: []int{502, 503}, HTML: "www 50x"},
		{Host: "WWW.Example.org", Status: []int{404}, HTML: "www 404"},
	})
	for _, c := range []struct {
		host   string
		status int
		want   string
	}{
		{"www.example.org", 404, "www 404"},
		{"www.example.org:8080", 503, "www 50x"},
		{"WWW.EXAMPLE.ORG", 502, "www 50x"},
		{"www.example.org", 500, "below"},
		{"a.shop.example.org", 404, "shop"},
		{"shop.example.org", 404, "below"},
		{"example.org", 500, "any"},
		{"example.org", 404, "any 404"},
		{"", 400, "any"},
	} {
		if got := string(table.Page(c.host, errorpage.Values{Status: c.status})); got != c.want {
			t.Errorf("%s, %d: got page %q, want %q", c.host, c.status, got, c.want)
		}
	}
	if got := compile(t, nil).Page("x", errorpage.Values{Status: 404}); got != nil {
		t.Errorf("without pages: got %q, want none", got)
	}
	if got := compile(t, errorpage.Pages{{Host: "x", HTML: "x"}}).Page("y", errorpage.Values{Status: 404}); got != nil {
		t.Errorf("a page of another host: got %q, want none", got)
	}
}

func TestValuesAreEscaped(t *testing.T) {
	for text, want := range map[string]string{
		"{status} {title}":            "503 Service Unavailable",
		"<p>{id}<p>{trace}":           "<p>&lt;b&gt;&amp;&#34;&#39;<p>",
		"body{font:1rem} p{}{{id}}{ ": "body{font:1rem} p{}{&lt;b&gt;&amp;&#34;&#39;}{ ",
		"{Id}{i d}{}{id":              "{Id}{i d}{}{id",
	} {
		got := string(compile(t, errorpage.Pages{{HTML: text}}).Page("x", errorpage.Values{Status: 503, ID: `<b>&"'`}))
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	table := compile(t, errorpage.Pages{{HTML: "{title}"}})
	if got := string(table.Page("", errorpage.Values{Status: 599})); got != "Error" {
		t.Errorf("a status without a text: got title %q, want Error", got)
	}
}

func TestBadPagesAreRefused(t *testing.T) {
	p := schema(t)
	for field, list := range map[string]errorpage.Pages{
		"[0].host":      {{Host: "a:80", HTML: "x"}},
		"[1].host":      {{HTML: "x"}, {Host: "a.*", HTML: "x"}},
		"[2].host":      {{Host: "a", HTML: "x"}, {HTML: "x"}, {Host: "A", HTML: "x"}},
		"[0].status[1]": {{Status: []int{404, 200}, HTML: "x"}},
		"[0].html":      {{HTML: ""}},
		"has 33":        {{HTML: strings.Repeat("{id}", 33)}},
		"{message}":     {{HTML: "<p>{{message}"}},
		"has 65537":     {{HTML: strings.Repeat("x", 64<<10+1)}},
		"are 101":       make(errorpage.Pages, 101),
	} {
		if err := list.Validate(); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("error %v, want one of kind Invalid that has %q", err, field)
		}
	}
	for _, text := range []string{
		`[{"html": ""}]`, `[{"html": "{message}"}]`, `[{"html": "x", "status": [200]}]`, `[{"html": "x", "host": "a:80"}]`,
		`[{"html": "x", "body": "x"}]`, `[{"host": "x"}]`, `{}`,
	} {
		if err := p.Check(text); err == nil {
			t.Errorf("the schema takes %s", text)
		}
	}
	if err := p.Check(`[{"host": "*.example.org", "status": [404], "html": "p{margin:0} {id}"}]`); err != nil {
		t.Errorf("the schema refuses a good page: %v", err)
	}
}

// The schema and the edge take the same placeholders.
func FuzzPlaceholders(f *testing.F) {
	for _, text := range []string{
		"", "x", "{", "}", "{}", "{{", "{id}", "{{id}", "{{id}}", "{id", "{x}", "{a{id}", "{a{b}", "{a {b", "{}{x}", "é{",
		"p{\n}", "{Id}", "{i}d}", "{}}", "{{}", "{a{}",
	} {
		f.Add(text)
	}
	p := schema(f)
	f.Fuzz(func(t *testing.T, text string) {
		list := errorpage.Pages{{HTML: text}}
		err := list.Validate()
		if err != nil && strings.Contains(err.Error(), "at most") || len(text) > 1000 {
			return // the schema does not count
		}
		encoded, ok := encode(text)
		if !ok {
			return
		}
		if err2 := p.Check(`[{"html": ` + encoded + `}]`); (err == nil) != (err2 == nil) {
			t.Errorf("%q: the edge says %v, the schema says %v", text, err, err2)
		}
	})
}

// encode returns text as JSON; false: it is not UTF-8.
func encode(text string) (string, bool) {
	b, err := json.Marshal(text)
	return string(b), err == nil && utf8.ValidString(text)
}
