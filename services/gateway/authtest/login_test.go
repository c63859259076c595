package authtest

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bijou.dev/services/gateway"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// provider starts the OpenID provider of the library of Zitadel, with one client, on loopback.
func provider(t *testing.T, client *storage.Client) (issuer string) {
	t.Helper()
	l := listen(t)
	issuer = "http://" + l.Addr().String() + "/"
	clients := map[string]*storage.Client{client.GetID(): client}
	users := storage.NewStorageWithClients(storage.NewUserStore(issuer), clients)
	srv := &httptest.Server{
		Listener: l,
		Config:   &http.Server{Handler: exampleop.SetupServer(issuer, users, nil, false, op.WithAllowInsecure())},
	}
	srv.Start()
	t.Cleanup(srv.Close)
	return issuer
}

// A browser logs in at a real provider, uses the session, and logs out.
func TestLoginAtAProvider(t *testing.T) {
	for name, newClient := range map[string]func(redirect string) *storage.Client{
		"with a secret": func(redirect string) *storage.Client { return storage.WebClient("edge", "hush", redirect) },
		"public":        func(redirect string) *storage.Client { return storage.NativeClient("edge", redirect) },
	} {
		t.Run(name, func(t *testing.T) {
			origin := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(rw, r.RequestURI+" of "+r.Header.Get("X-User")+r.Header.Get("Cookie"))
			}))
			t.Cleanup(origin.Close)
			secrets := t.TempDir()
			for name, text := range map[string]string{"oidc": "hush", "keys": strings.Repeat("0", 64)} {
				if err := os.WriteFile(filepath.Join(secrets, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// The URL of the edge must be known to the provider, and that of the provider to the edge.
			l := listen(t)
			at := "http://" + l.Addr().String()
			issuer := provider(t, newClient(at+"/.login/callback"))
			secret := `"clientSecret":"oidc",`
			if name == "public" {
				secret = ""
			}
			edgeOn(t, l, gateway.EdgeOptions{Options: gateway.Options{Secrets: secrets}}, `[{"name":"web",
				"to":[{"url":"`+origin.URL+`"}],"auth":{"methods":[{"login":{"issuer":"`+issuer+`","clientId":"edge",`+secret+`
				"cookieKeys":"keys","scopes":["email","offline_access"]}}],"claims":{"sub":"X-User"}}}]`)

			jar, err := cookiejar.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			c := &http.Client{Jar: jar, Transport: &http.Transport{}}
			t.Cleanup(c.CloseIdleConnections)
			res, _ := get(t, c, at+"/films?a=b", "Accept", "text/html")
			if !strings.HasPrefix(res.Request.URL.String(), issuer+"login/username") {
				t.Fatalf("the browser is at %s, %d; want the page for passwords", res.Request.URL, res.StatusCode)
			}
			form := url.Values{
				"username": {"test-user@127.0.0.1"}, "password": {"verysecure"},
				"id": {res.Request.URL.Query().Get("authRequestID")},
			}
			res, err = c.PostForm(issuer+"login/username", form)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if want := "/films?a=b of id1"; err != nil || string(body) != want {
				t.Fatalf("after the log-in: %s, %d %s, %v; want %s", res.Request.URL.Path, res.StatusCode, body, err, want)
			}
			if _, body := get(t, c, at+"/other"); body != "/other of id1" {
				t.Errorf("with the session: %s", body)
			}
			c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			if res, _ := get(t, c, at+"/.login/logout"); !strings.HasPrefix(res.Header.Get("Location"), issuer+"end_session?") {
				t.Errorf("a log-out: %d to %s, want the provider", res.StatusCode, res.Header.Get("Location"))
			}
			if res, _ := get(t, c, at+"/other"); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("after the log-out: %d, want 401", res.StatusCode)
			}
		})
	}
}
