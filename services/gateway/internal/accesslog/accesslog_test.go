package accesslog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/accesslog"
	"bijou.dev/services/gateway/internal/message"

	"github.com/google/go-cmp/cmp"
)

var entry = accesslog.Entry{
	At:   time.Date(2026, 11, 30, 20, 15, 4, 123456789, time.FixedZone("", 3600)),
	Took: 12345 * time.Microsecond, Method: "GET", Host: "www.example.org", Path: "/a%20b", Query: "?q=1",
	Protocol: "1.1", Scheme: "https", Route: "web", Called: "shop", By: "shop-1", Status: 200, Attempts: 2, Bytes: 512,
	Client: "198.51.100.7", Peer: "10.0.0.9", Identity: "ann", RequestID: "r-1", Share: 1,
	TraceID: "463ac35c9f6413ad48485a3953bb6124",
	Header:  message.Header{{Name: "User-Agent", Value: `curl "8" \`}, {Name: "Referer", Value: "https://x/é\t"}},
}

func compile(t testing.TB, s accesslog.Settings) *accesslog.Form {
	t.Helper()
	f, err := accesslog.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLinesOfText(t *testing.T) {
	for template, want := range map[string]string{
		"common": `198.51.100.7 - ann [30/Nov/2026:20:15:04 +0100] "GET /a%20b HTTP/1.1" 200 512`,
		"combined": `198.51.100.7 - ann [30/Nov/2026:20:15:04 +0100] "GET /a%20b HTTP/1.1" 200 512 ` +
			`"https://x/\xc3\xa9\x09" "curl \"8\" \\"`,
		"{time} {took} {{x}} {header:x-none} {fault}": `2026-11-30T19:15:04.123Z 0.012345 {x} - -`,
		"{path}{query}|{scheme}|{host}|{route}|{called}|{by}|{attempts}|{peer}|{request_id}|{trace_id}|{share}": `/a%20b` +
			`?q=1|https|www.example.org|web|shop|shop-1|2|10.0.0.9|r-1|463ac35c9f6413ad48485a3953bb6124|1`,
	} {
		got := string(compile(t, accesslog.Settings{Template: template}).Append(nil, &entry))
		if diff := cmp.Diff(want+"\n", got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", template, diff)
		}
	}
	bad := entry
	bad.Method, bad.Host, bad.Query = strings.Repeat("x", 100), "a b\n\"", ""
	f := compile(t, accesslog.Settings{Template: "{method} {host} {path}{query}"})
	if got, want := string(f.Append(nil, &bad)), strings.Repeat("x", 64)+` a\x20b\x0a\" /a%20b`+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// line returns the line of JSON of an entry, without time, level and message.
func line(t testing.TB, f *accesslog.Form, e *accesslog.Entry) string {
	t.Helper()
	var out bytes.Buffer
	h := slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey {
			return slog.Attr{}
		}
		return a
	}})
	slog.New(h).LogAttrs(t.Context(), slog.LevelInfo, "request", f.Attrs(nil, e)...)
	return strings.TrimSpace(out.String())
}

func TestLinesOfJSON(t *testing.T) {
	for _, c := range []struct {
		fields []string
		want   string
	}{
		{nil, `{"method":"GET","host":"www.example.org","path":"/a%20b","route":"web","called":"shop","by":"shop-1",` +
			`"status":200,"bytes":512,"took":12345000,"attempts":2,"fault":"","client":"198.51.100.7","identity":"ann",` +
			`"request_id":"r-1"}`},
		{
			[]string{"status", "header:user-agent", "query", "took", "bytes", "attempts", "share", "peer"},
			`{"status":200,"header_user_agent":"curl \"8\" \\","query":"?q=1","took":12345000,"bytes":512,"attempts":2,` +
				`"share":1,"peer":"10.0.0.9"}`,
		},
	} {
		if got := line(t, compile(t, accesslog.Settings{Fields: c.fields}), &entry); got != c.want {
			t.Errorf("%v:\ngot  %s\nwant %s", c.fields, got, c.want)
		}
	}
	long := entry
	long.Header = message.Header{{Name: "User-Agent", Value: strings.Repeat("x", 5000)}}
	long.Share = 0.25
	got := line(t, compile(t, accesslog.Settings{Fields: []string{"header:User-Agent"}}), &long)
	if len(got) > 1100 {
		t.Errorf("a long field is %d bytes long in a line, want at most 1 KiB", len(got))
	}
	if got := line(t, compile(t, accesslog.Settings{}), &long); !strings.HasSuffix(got, `"share":0.25}`) {
		t.Errorf("a line that stands for four does not say so: %s", got)
	}
}

func TestBadFormsAreRefused(t *testing.T) {
	p, err := config.ParseProperty(&configv1.Property{
		Name: "form", Type: configv1.Type_TYPE_JSON, DefaultValue: "{}", JsonSchema: accesslog.Settings{}.JSONSchema(),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		form, want string
		late       bool // only the edge refuses it, not the schema
	}{
		{`{"fields": ["method", "colour"]}`, "fields[1]", false},
		{`{"fields": ["method", "method"]}`, "fields[1]", true},
		{`{"fields": ["header:Cookie"]}`, "fields[0]", true},
		{`{"fields": ["header:authorization"]}`, "fields[0]", true},
		{`{"fields": ["header:a b"]}`, "fields[0]", false},
		{`{"fields": ["time"]}`, "fields[0]", false},
		{`{"fields": ["method"], "template": "common"}`, "fields", true},
		{`{"template": "apache"}`, "template", true},
		{`{"template": "{client"}`, "template", true},
		{`{"template": "client}"}`, "template", true},
		{`{"template": "{colour}"}`, "template", true},
		{`{"template": "{header:Cookie}"}`, "template", true},
		{`{"template": "{client}\n{path}"}`, "template", true},
		{`{"template": "` + strings.Repeat("{by}", 33) + `"}`, "template", true},
		{`{"template": "{client}` + strings.Repeat("x", 1024) + `"}`, "template", false},
		{`{"share": -0.1}`, "share", false},
		{`{"share": 1.1}`, "share", false},
	} {
		var s accesslog.Settings
		if err := json.Unmarshal([]byte(c.form), &s); err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one of kind Invalid that names %s", c.form, err, c.want)
		}
		if err := p.Check(c.form); (err != nil) == c.late {
			t.Errorf("%s: the schema gives the error %v, want an error: %t", c.form, err, !c.late)
		}
	}
	if err := p.Check(`{"fields": ["method", "header:User-Agent"], "share": 0.5}`); err != nil {
		t.Errorf("the schema refuses a good form: %v", err)
	}
}

// Whatever a client sends, its request has one line of printable ASCII, and the quotation marks are those of the form.
func FuzzLine(f *testing.F) {
	f.Add("GET", "x", "/", "curl")
	f.Add("G\"T", "a\\", "/\xff\n", "\" 200 0\n1.1.1.1")
	f.Fuzz(func(t *testing.T, method, host, path, agent string) {
		e := accesslog.Entry{
			Method: method, Host: host, Path: path, Share: 1,
			Header: message.Header{{Name: "User-Agent", Value: agent}},
		}
		form := compile(t, accesslog.Settings{Template: `{method} {host} {path} "{header:User-Agent}"`})
		got := form.Append(nil, &e)
		text := string(got[:len(got)-1])
		if got[len(got)-1] != '\n' || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Fatalf("%q is not a line of printable ASCII", got)
		}
		bare := strings.NewReplacer(`\\`, "", `\"`, "").Replace(text)
		if strings.Count(bare, `"`) != 2 || strings.Count(bare[:strings.Index(bare, `"`)], " ") != 3 {
			t.Fatalf("%q does not have four fields", got)
		}
	})
}

func TestLinesOfTextNeedNoMemory(t *testing.T) {
	f := compile(t, accesslog.Settings{Template: "combined"})
	buf := f.Append(nil, &entry)
	if n := testing.AllocsPerRun(100, func() { buf = f.Append(buf[:0], &entry) }); n > 0 {
		t.Errorf("a line takes %v allocations, want 0", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	f := compile(b, accesslog.Settings{Template: "combined"})
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = f.Append(buf[:0], &entry)
	}
}

// logrotate moves the file away; the next line after a second is in a new one.
func TestAFileThatIsMovedAwayIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "access.log")
		f, err := accesslog.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		write := func(text string) {
			t.Helper()
			if _, err := io.WriteString(f, text); err != nil {
				t.Fatal(err)
			}
		}
		write("1\n")
		if err := os.Rename(name, name+".1"); err != nil {
			t.Fatal(err)
		}
		write("2\n")
		time.Sleep(time.Second)
		write("3\n")
		time.Sleep(time.Second)
		write("4\n")
		for file, want := range map[string]string{name + ".1": "1\n2\n", name: "3\n4\n"} {
			if got, err := os.ReadFile(file); err != nil || string(got) != want {
				t.Errorf("%s has %q, %v; want %q", file, got, err, want)
			}
		}
		if err := errors.Join(f.Close(), f.Close()); err != nil {
			t.Errorf("closing twice: %v", err)
		}
		if _, err := io.WriteString(f, "5\n"); !errors.Is(err, os.ErrClosed) {
			t.Errorf("writing to a closed file: error %v, want %v", err, os.ErrClosed)
		}
	})
	if _, err := accesslog.OpenFile(t.TempDir()); !errors.Is(err, errs.Invalid) {
		t.Errorf("a folder: error %v, want one of kind Invalid", err)
	}
}
