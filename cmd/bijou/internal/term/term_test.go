package term_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"

	"bijou.dev/cmd/bijou/internal/term"
	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	table := term.Table{Header: []string{"NAME", "STATE", "WHY"}}
	colour := term.Style{On: true}
	table.Add("a", colour.Green("healthy"), "")
	table.Add("längér", colour.Red("held"), "by hand")
	var plain, coloured bytes.Buffer
	if err := table.Write(&coloured, colour, 80); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[2mNAME    STATE    WHY\x1b[0m\na       \x1b[32mhealthy\x1b[0m\nlängér  \x1b[31mheld\x1b[0m     by hand\n"
	if diff := cmp.Diff(want, coloured.String()); diff != "" {
		t.Errorf("with colours (-want +got):\n%s", diff)
	}
	empty := term.Table{Header: []string{"NAME"}}
	if err := empty.Write(&plain, term.Style{}, 80); err != nil || plain.Len() > 0 {
		t.Errorf("an empty table writes %q, %v", plain.String(), err)
	}
}

func TestTableFitsTheTerminal(t *testing.T) {
	table := term.Table{Header: []string{"NAME", "VALUE", "ABOUT"}}
	table.Add("web.home.row", strings.Repeat("v", 262_144), strings.Repeat("about ", 20))
	table.Add("b", term.Style{On: true}.Red(strings.Repeat("r", 90)), "")
	for _, columns := range []int{60, 80, 100} {
		var out bytes.Buffer
		if err := table.Write(&out, term.Style{}, columns); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.NewReplacer("\x1b[31m", "", "\x1b[0m", "", "\n", "").Replace(line)
			if n := len([]rune(line)); n > columns {
				t.Errorf("a terminal of %d columns gets a line of %d: %q", columns, n, line)
			}
		}
		if !strings.Contains(out.String(), "web.home.row") {
			t.Errorf("%d columns: the short column was cut:\n%s", columns, out.String())
		}
		if !strings.Contains(out.String(), "…\x1b[0m") {
			t.Errorf("%d columns: the colour of a cut cell does not end:\n%q", columns, out.String())
		}
	}
	var out bytes.Buffer
	if err := table.Write(&out, term.Style{}, 0); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 1500 {
		t.Errorf("without a terminal a value of 256 KiB makes %d bytes of output", out.Len())
	}
}

func TestTablesCountTheColumnsOfWideCharacters(t *testing.T) {
	table := term.Table{Header: []string{"NAME", "X"}}
	for _, name := range []string{
		"映画館", "ｶﾅ", "한국", "🎬🎬🎬", "e\u0301te\u0301", "größe", // 6, 2, 4, 6, 3 and 5 columns
	} {
		table.Add(name, "x")
	}
	var out bytes.Buffer
	if err := table.Write(&out, term.Style{}, 80); err != nil {
		t.Fatal(err)
	}
	want := "NAME    X\n映画館  x\nｶﾅ      x\n한국    x\n🎬🎬🎬  x\ne\u0301te\u0301     x\ngröße   x\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestCutNeverExceedsItsColumns(t *testing.T) {
	for _, test := range []struct {
		text string
		n    int
		want term.Painted
	}{
		{"映画館", 6, "映画館"},
		{"映画館", 5, "映画…"},
		{"映画館", 4, "映…"}, // half of a character cannot be drawn
		{"a映画", 3, "a…"},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"},
		{"abc", 0, "abc"},
		{"", 3, ""},
	} {
		if got := term.Cut(term.Plain(test.text), test.n); got != test.want {
			t.Errorf("Cut(%q, %d) = %q, want %q", test.text, test.n, got, test.want)
		}
	}
}

func FuzzCut(f *testing.F) {
	for _, seed := range []string{"", "abc", "映画館", "e\u0301", "🎬", "\x1b[31mred\x1b[0m", "\xff"} {
		f.Add(seed, 2)
	}
	f.Fuzz(func(t *testing.T, text string, n int) {
		plain := term.Plain(text)
		cut := term.Cut(plain, n)
		if cut != plain && n > 0 {
			padded := term.Pad(cut, n)
			if term.Cut(padded, n) != padded {
				t.Errorf("Cut(%q, %d) = %q, which takes more columns", text, n, cut)
			}
		}
	})
}

func TestTextFromOutsideIsEscaped(t *testing.T) {
	const evil = "ann\x1b[2J\nrevision 9\r\u202e\xff"
	const safe = `ann\x1b[2J\nrevision 9\r\u202e\xff`
	table := term.Table{Header: []string{"WHO"}}
	table.Add(evil)
	var cells, line bytes.Buffer
	if err := table.Write(&cells, term.Style{}, 80); err != nil {
		t.Fatal(err)
	}
	if err := term.Fprintf(&line, "%s %v %v\n", evil, errors.New(evil), term.Style{On: true}.Bold(evil)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("WHO\n"+safe+"\n", cells.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(safe+" "+safe+" \x1b[1m"+safe+"\x1b[0m\n", line.String()); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
	spans := []term.Span{span("1", "", evil, evil, 0, 1000)}
	spans[0].Tags = map[string]string{"error": evil, "bijou.circuit.reason": evil}
	var trace bytes.Buffer
	if err := term.Waterfall(&trace, term.Style{}, 200, spans, true); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(trace.String(), "\x1b\r") || strings.Count(trace.String(), "\n") != 5 {
		t.Errorf("a span's name reaches the terminal as it is:\n%q", trace.String())
	}
}

func TestLogLine(t *testing.T) {
	for in, want := range map[string]string{
		`{"time":"2026-01-01T00:00:00Z","level":"INFO","msg":"ready","service":"web"}`: "ready",
		`{"level":"WARN","msg":"slow","took":1.5,"why":"a b","deep":{"x":[1]}}`:        `WARN slow took=1.5 why=a b deep={"x":[1]}`,
		`{"level":"error","ts":"x","caller":"y.go:1","msg":"zap"}`:                     "ERROR zap",
		`{"level":"DEBUG","msg":"x"}`:                                                  "DEBUG x",
		`{"level":"INFO","msg":"request","took":1341150617,"fault":"","status":200}`:   "request took=1.34s status=200",
		`{"level":"ERROR","msg":"x","error":"two\nlines","stacktrace":"a\n\tb"}`:       `ERROR x error=two\nlines`,
		"panic: everything":   "panic: everything",
		`{"no":"message"}`:    `{"no":"message"}`,
		`{"msg":"cut of`:      `{"msg":"cut of`,
		`{"msg":1,"level":2}`: "2 1",
		"":                    "",
	} {
		if got := string(term.LogLine(term.Style{}, in, "service")); got != want {
			t.Errorf("%s\n got %q\nwant %q", in, got, want)
		}
	}
}

func FuzzLogLine(f *testing.F) {
	f.Add(`{"level":"INFO","msg":"x","a":{"b":[1,2,"c"]}}`)
	f.Add(`{"msg"`)
	f.Fuzz(func(t *testing.T, line string) {
		got := string(term.LogLine(term.Style{}, line))
		if i := strings.IndexFunc(got, unicode.IsControl); i >= 0 {
			t.Errorf("%q became %q, which has a control character at byte %d", line, got, i)
		}
	})
}

func span(id, parent, service, name string, start, took int64) term.Span {
	return term.Span{
		TraceID: "abc", ID: id, ParentID: parent, Name: name, Start: 1_000_000 + start, Duration: took,
		Local: &term.Endpoint{Service: service},
	}
}

func TestAWaterfallSaysWhy(t *testing.T) {
	call := span("1", "", "web", "catalog.v1.Catalog/Get", 0, 1000)
	call.Tags = map[string]string{
		"bijou.route.instance": "catalog-a-1", "bijou.circuit.state": "closed",
		"peer.service": "catalog",
	}
	for why, want := range map[bool]bool{false: false, true: true} {
		var out bytes.Buffer
		if err := term.Waterfall(&out, term.Style{}, 80, []term.Span{call}, why); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "\n  circuit.state=closed  route.instance=catalog-a-1\n"); got != want {
			t.Errorf("with why %v the decisions are shown: %v\n%s", why, got, out.String())
		}
	}
}

func TestWaterfall(t *testing.T) {
	client := span("2", "1", "gateway", "catalog.get", 10_000, 80_000)
	client.Kind = "CLIENT"
	server := span("2", "1", "catalog", "get", 20_000, 60_000)
	server.Shared, server.Tags = true, map[string]string{"error": "no such film"}
	spans := []term.Span{
		span("3", "2", "catalog", "read", 30_000, 500), // below the server's half of the shared span
		server, client,
		span("1", "", "gateway", "get /", 0, 100_000),
		span("9", "8", "lost", "a.b.v1.Orphans/Find", 99_999, 2_000_000),
		span("x", "y", "loop", "a", 0, 1), span("y", "x", "loop", "b", 0, 1),
		{TraceID: "abc", ID: "z", Name: "no service"},
	}
	spans[7].Start = 1_000_000
	var out bytes.Buffer
	if err := term.Waterfall(&out, term.Style{}, 80, spans, false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if !strings.HasPrefix(lines[0], "trace abc  8 spans  5 services  2.10s  ") {
		t.Errorf("heading %q", lines[0])
	}
	var tree []string
	for _, line := range lines[2:] {
		tree = append(tree, strings.TrimRight(strings.Split(line, "▆")[0], " "))
	}
	want := []string{
		"gateway get /             100.0ms",
		"  gateway → catalog.get    80.0ms",
		"    catalog get            60.0ms",
		"      error: no such film",
		"      catalog read          500µs",
		"? no service                  0µs",
		"lost Orphans/Find           2.00s",
		"loop a                        1µs",
		"  loop b                      1µs",
		"",
	}
	if diff := cmp.Diff(want, tree); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	for _, line := range lines {
		if n := len([]rune(line)); n > 80 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	out.Reset()
	if err := term.Waterfall(&out, term.Style{}, 80, nil, false); err != nil || out.Len() > 0 {
		t.Errorf("no spans: %q, %v", out.String(), err)
	}
}

func TestTitle(t *testing.T) {
	for want, s := range map[string]term.Span{
		"get":         {Name: "get"},
		"Catalog/Get": {Name: "bijou.cinema.catalog.v1.Catalog/Get"},
		"GET /api/home": {Name: "GET /", Kind: "SERVER", Tags: map[string]string{
			"http.request.method": "GET",
			"url.path":            "/api/home",
		}},
		"POST /api/x": {Name: "POST", Kind: "SERVER", Tags: map[string]string{
			"http.request.method": "POST",
			"url.path":            "/api/x",
		}},
		"GET /users/{id}": {Name: "GET /users/{id}", Kind: "SERVER"},
		"GET web": {Name: "GET web", Kind: "CLIENT", Tags: map[string]string{
			"http.request.method": "GET",
			"url.path":            "/",
		}},
	} {
		if got := s.Title(); got != want {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
}

func TestWaterfallInANarrowTerminal(t *testing.T) {
	var out bytes.Buffer
	long := span("1", "", "recommendations", strings.Repeat("a long name ", 10), 0, 1)
	if err := term.Waterfall(&out, term.Style{}, 60, []term.Span{long}, false); err != nil {
		t.Fatal(err)
	}
	if line := strings.Split(out.String(), "\n")[2]; len([]rune(line)) > 60 || !strings.Contains(line, "…") {
		t.Errorf("line %q", line)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 KiB", 5 << 20: "5 MiB", 3 << 29: "1.5 GiB", 24 << 30: "24 GiB"} {
		if got := term.Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestNamesKeepTheirColour(t *testing.T) {
	s := term.Style{On: true}
	if a, b := s.Name("web", "x"), s.Name("web", "x"); a != b || a == "x" {
		t.Errorf("%q and %q", a, b)
	}
	if got := (term.Style{}).Name("web", "x"); got != "x" {
		t.Errorf("without colours %q", got)
	}
}
