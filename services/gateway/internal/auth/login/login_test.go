package login_test

import (
	"bytes"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bijou.dev/services/gateway/internal/auth/login"
	"bijou.dev/services/gateway/internal/message"
)

const (
	key1 = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	key2 = "3031323334353637383930313233343536373839303132333435363738393132"
)

func keys(t testing.TB, text string) *login.Keys {
	t.Helper()
	k, err := login.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealedTexts(t *testing.T) {
	first, both, second := keys(t, key1), keys(t, key2+"\n# the old one\n\n"+key1+"\n"), keys(t, key2)
	sealed := first.Seal("a", []byte("text"))
	for name, c := range map[string]struct {
		keys    *login.Keys
		purpose string
		sealed  string
		ok      bool
	}{
		"same key": {first, "a", sealed, true}, "old key": {both, "a", sealed, true},
		"new key by the new list": {second, "a", both.Seal("a", []byte("text")), true},
		"new key by the old list": {first, "a", both.Seal("a", []byte("text")), false},
		"other key":               {second, "a", sealed, false}, "other purpose": {first, "b", sealed, false},
		"empty": {first, "a", "", false}, "short": {first, "a", sealed[:20], false},
		"more":   {first, "a", sealed + "A", false},
		"padded": {first, "a", sealed + "=", false}, "lines": {first, "a", sealed + "\n", false},
	} {
		if text, ok := c.keys.Open(c.purpose, c.sealed); ok != c.ok || ok && string(text) != "text" {
			t.Errorf("%s: %q, %v; want that it opens: %v", name, text, ok, c.ok)
		}
	}
	if sealed == first.Seal("a", []byte("text")) {
		t.Error("the same text was sealed to the same twice")
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "# none\n", "secret words", key1[:20], key2[:62], key1 + key1, strings.Repeat(key1+"\n", 9), key1 + "\n!",
	} {
		if _, err := login.ParseKeys(text); err == nil {
			t.Errorf("%q was taken", text)
		} else if len(text) > 8 && strings.Contains(err.Error(), text[:8]) {
			t.Errorf("the error has the secret: %v", err)
		}
	}
}

func newSecrets(dir string) *login.Secrets {
	return login.NewSecrets(dir, slog.New(slog.DiscardHandler))
}

// A route names a file of the folder, and no other.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"good": " s \n", "empty": "\n", "large": strings.Repeat("x", 16<<10+1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o700); err != nil {
		t.Fatal(err)
	}
	if text, err := newSecrets(dir).Read("good"); text != "s" || err != nil {
		t.Errorf("%q, %v; want s", text, err)
	}
	for _, name := range []string{
		"", ".", "..", "../good", "empty", "large", "missing", "below", dir + "/good", ".good", "a b",
	} {
		if text, err := newSecrets(dir).Read(name); err == nil {
			t.Errorf("%q: %.20q, want an error", name, text)
		}
	}
	if _, err := newSecrets(below).Read("../good"); err == nil {
		t.Error("a file outside of the folder was read")
	}
	if _, err := newSecrets("").Read("good"); err == nil {
		t.Error("without a folder a secret was read")
	}
}

func TestNavigations(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		header []string
		want   bool
	}{
		"browser":   {"GET", []string{"Accept", "application/xml, Text/HTML;q=0.9"}, true},
		"navigate":  {"GET", []string{"Accept", "text/html", "Sec-Fetch-Mode", "navigate"}, true},
		"HEAD":      {"HEAD", []string{"Accept", "text/html"}, false},
		"fetch":     {"GET", []string{"Accept", "text/html", "Sec-Fetch-Mode", "no-cors"}, false},
		"WebSocket": {"GET", []string{"Accept", "text/html", "Upgrade", "websocket"}, false},
		"any":       {"GET", []string{"Accept", "*/*"}, false},
		"none":      {"GET", nil, false},
		"similar":   {"GET", []string{"Accept", "text/html5"}, false},
	} {
		var h message.Header
		for i := 0; i < len(c.header); i += 2 {
			h.Add(c.header[i], c.header[i+1])
		}
		if got := login.IsNavigation(c.method, h); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// FuzzReturnPath: after a log-in a browser stays on the host.
func FuzzReturnPath(f *testing.F) {
	for _, path := range []string{
		"/a?b=c", "//evil.example", "/\\evil.example", "/\t/evil.example", "https://evil.example", "/.login/callback?code=1",
		"/%2Fevil.example", "/a\r\nSet-Cookie: x", "",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := login.ReturnPath(path)
		to, err := url.Parse(got)
		if err != nil {
			to = &url.URL{} // as a path that no library could read: browsers take it as it is
		}
		base := &url.URL{Scheme: "https", Host: "x.example"}
		if at := base.ResolveReference(to); at.Host != "x.example" || at.Scheme != "https" || got[0] != '/' ||
			len(got) > 1 && (got[1] == '/' || got[1] == '\\') || strings.ContainsAny(got, "\r\n\t\\ ") {
			t.Errorf("%q leads to %q", path, got)
		}
		if strings.HasPrefix(got, "/.login/callback") && (len(got) == 16 || got[16] == '?') {
			t.Errorf("%q leads to the log-in again", path)
		}
	})
}

// FuzzOpen: sealed text that was changed does not open.
func FuzzOpen(f *testing.F) {
	k := keys(f, key1+"\n"+key2)
	f.Add("text", 0, "A")
	f.Add("", 10, "")
	f.Fuzz(func(t *testing.T, text string, at int, put string) {
		sealed := k.Seal("a", []byte(text))
		at = int(uint(at) % uint(len(sealed)))
		changed := sealed[:at] + put + sealed[min(len(sealed), at+len(put)):]
		if plain, ok := k.Open("a", changed); ok != (changed == sealed) || ok && string(plain) != text {
			t.Errorf("%q, changed to %q, opens as %q, %v", sealed, changed, plain, ok)
		}
	})
}

// FuzzParseKeys: keys that are taken can seal and open.
func FuzzParseKeys(f *testing.F) {
	f.Add(key1 + "\n#x\n" + key2)
	f.Add("-_" + key1[2:])
	f.Fuzz(func(t *testing.T, text string) {
		k, err := login.ParseKeys(text)
		if err != nil {
			return
		}
		if plain, ok := k.Open("a", k.Seal("a", []byte("b"))); !ok || !bytes.Equal(plain, []byte("b")) {
			t.Errorf("%q: sealed text opens as %q, %v", text, plain, ok)
		}
	})
}
