package gateway_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"bijou.dev/services/gateway"
	"bijou.dev/services/gateway/routes"
)

// Each list of routes in docs/api/gateway.md is in use while the requests of the block behind it are sent. Each service
// answers with its name, the method and the path. TOKEN is one of the provider https://id.example.org.
func TestExamplesOfTheReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/api/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```json\n(\\[.*?)```\n\n```text\n(.*?)```").FindAllSubmatch(page, -1)
	if lists := strings.Count(string(page), "```json\n["); len(examples) != lists || lists < 5 {
		t.Fatalf("%d of %d lists of routes have requests behind them", len(examples), lists)
	}
	keys := string(regexp.MustCompile(`gateway\.keys '(.*?)'`).FindSubmatch(page)[1])
	provider := newIdentityProvider()
	token := provider.token(t, `"sub":"ann","scope":"read","groups":["staff"]`)
	secrets := t.TempDir()
	for name, text := range map[string]string{"oidc-secret": "hush", "cookie-keys": cookieKey1} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range examples {
		var list routes.Routes
		if err := list.Set(string(e[1])); err != nil {
			t.Errorf("%v: %s", err, e[1])
			continue
		}
		w := worldWith(t, gateway.EdgeOptions{
			Options: gateway.Options{Secrets: secrets}, AuthClient: &http.Client{Transport: provider},
		}, string(e[1]), "gateway.keys", keys)
		known := map[string]bool{}
		for _, r := range list {
			for _, to := range r.To {
				switch name := to.Service + to.URL; {
				case known[name]:
				case to.URL != "":
					_, addr, _ := strings.Cut(to.URL, "://")
					w.at(addr, echo(addr))
				default:
					w.origin(to.Service, to.Service+"-1", to.Version, echo(to.Service))
				}
				known[to.Service+to.URL] = true
			}
		}
		for line := range strings.Lines(string(e[2])) {
			w.checkExample(strings.ReplaceAll(strings.TrimSpace(line), "TOKEN", token))
		}
	}
}

// Each value of a setting of the edge in the documentation is one that the edge takes.
func TestSettingsOfTheReference(t *testing.T) {
	set := regexp.MustCompile(`config set (gateway\.\S+) ('[^']+'|[^'"\s]+)`)
	count := 0
	for _, file := range []string{"api/gateway.md", "api/client-address.md", "runbooks/gateway.md"} {
		page, err := os.ReadFile("../../docs/" + file)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, "[]")
		for _, m := range set.FindAllSubmatch(page, -1) {
			name, value := string(m[1]), strings.Trim(string(m[2]), "'")
			if err := w.set.Put(name, value); err != nil {
				t.Errorf("%s: %s: %v\n%s", file, name, err, value)
			}
			count++
		}
	}
	if count < 8 {
		t.Errorf("the documentation has %d values of settings, want at least 8", count)
	}
}

func echo(name string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = rw.Write([]byte(name + " " + r.Method + " " + r.RequestURI)) // a client that left fails the test itself
	})
}

// checkExample sends the request of a line
// "METHOD URL [Name: value [and Name: value]] -> STATUS [body or Name: value]".
func (w *world) checkExample(line string) {
	w.t.Helper()
	request, want, _ := strings.Cut(line, "->")
	method, rest, _ := strings.Cut(strings.TrimSpace(request), " ")
	url, field, _ := strings.Cut(rest, " ")
	var header []string
	for line := range strings.SplitSeq(field, " and ") {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			header = append(header, name, value)
		}
	}
	res := w.do(w.client(false), method, strings.TrimSpace(url), nil, header...)
	status, answer, _ := strings.Cut(strings.TrimSpace(want), " ")
	name, value, _ := strings.Cut(answer, ": ")
	if strconv.Itoa(res.StatusCode) != status || !strings.HasPrefix(res.body, answer) && res.Header.Get(name) != value {
		w.t.Errorf("%s\ngot %d %.100s\n%v", line, res.StatusCode, res.body, res.Header)
	}
}
