package routes_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
	"bijou.dev/platform/names/namestest"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/routes"
)

func parse(t testing.TB, text string) routes.Routes {
	t.Helper()
	var r routes.Routes
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMostSpecificRouteMatches(t *testing.T) {
	list := parse(t, `[
		{"name":"all","to":[{"service":"s"}]},
		{"name":"api","match":{"prefix":"/api"},"to":[{"service":"s"}]},
		{"name":"api-below","match":{"prefix":"/api/"},"to":[{"service":"s"}]},
		{"name":"api-v1","match":{"prefix":"/api/v1"},"to":[{"service":"s"}]},
		{"name":"api-exact","match":{"path":"/api/v1/exact"},"to":[{"service":"s"}]},
		{"name":"api-post","match":{"prefix":"/api/v1","methods":["POST","PUT"]},"to":[{"service":"s"}]},
		{"name":"api-header","match":{"prefix":"/api/v1","headers":[{"name":"x-a","value":"1"}]},
			"to":[{"service":"s"}]},
		{"name":"api-present","match":{"prefix":"/api/v1","headers":[{"name":"X-A"}]},"to":[{"service":"s"}]},
		{"name":"api-two","match":{"prefix":"/api/v1","headers":[{"name":"x-a"},{"name":"x-b"}]},
			"to":[{"service":"s"}]},
		{"name":"host","match":{"host":"A.Example.org"},"to":[{"service":"s"}]},
		{"name":"below","match":{"host":"*.example.org"},"to":[{"service":"s"}]},
		{"name":"deep","match":{"host":"*.deep.example.org"},"to":[{"service":"s"}]},
		{"name":"below-api","match":{"host":"*.example.org","prefix":"/api"},"to":[{"service":"s"}]}
	]`)
	if err := list.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ request, header, want string }{
		{"GET x /", "", "all"},
		{"GET x /apix", "", "all"},
		{"GET x /api", "", "api"},
		{"GET x /api/", "", "api-below"},
		{"GET x /api/v2", "", "api-below"},
		{"GET x /api/v1", "", "api-v1"},
		{"GET x /api/v1/exact", "", "api-exact"},
		{"GET x /api/v1/exact/", "", "api-v1"},
		{"POST x /api/v1", "", "api-post"},
		{"POST x /api/v1", "X-A: 1", "api-post"}, // methods before headers
		{"GET x /api/v1", "X-A: 1", "api-header"},
		{"GET x /api/v1", "X-A: 2", "api-present"},
		{"GET x /api/v1", "X-A: 1, X-B: 1", "api-two"},
		{"GET a.example.org /api", "", "host"}, // the host goes before the path
		{"GET A.EXAMPLE.ORG.:8080 /", "", "host"},
		{"GET b.example.org /", "", "below"},
		{"GET b.example.org /api/x", "", "below-api"},
		{"GET c.b.example.org /", "", "below"},
		{"GET x.deep.example.org /api", "", "deep"},
		{"GET example.org /", "", "all"},
		{"GET notexample.org /", "", "all"},
	} {
		f := strings.Fields(c.request)
		h := http.Header{}
		for line := range strings.SplitSeq(c.header, ", ") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				h.Add(name, value)
			}
		}
		if got := routes.Find(list, f[1], f[2], f[0], h); got != c.want {
			t.Errorf("%s %s: route %q, want %q", c.request, c.header, got, c.want)
		}
	}
}

// Conditions on the query, cookies and the whole path, and which of two routes goes first.
func TestConditionsOfRoutes(t *testing.T) {
	list := parse(t, `[
		{"name":"all","to":[{"service":"s"}]},
		{"name":"query","match":{"query":[{"name":"v","value":"2"}]},"to":[{"service":"s"}]},
		{"name":"query-any","match":{"query":[{"name":"v"}]},"to":[{"service":"s"}]},
		{"name":"cookie","match":{"cookies":[{"name":"beta","regexp":"y(es)?"}]},"to":[{"service":"s"}]},
		{"name":"number","match":{"regexp":"/[0-9]+"},"to":[{"service":"s"}]},
		{"name":"number-beta","match":{"regexp":"/[0-9]+","cookies":[{"name":"beta"}]},"to":[{"service":"s"}]},
		{"name":"deep","match":{"prefix":"/deep"},"to":[{"service":"s"}]},
		{"name":"deep-x","match":{"prefix":"/deep","regexp":".*/x"},"to":[{"service":"s"}]},
		{"name":"two","match":{"query":[{"name":"a"},{"name":"b"}]},"to":[{"service":"s"}]}]`)
	table, err := routes.Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ target, cookie, want string }{
		{"/", "", "all"},
		{"/?v=2", "", "query"},
		{"/?v=1&v=2", "", "query"},
		{"/?v=3", "", "query-any"},
		{"/?v", "", "query-any"},
		{"/?w=2", "", "all"},
		{"/?a=1&b=2&v=3", "", "two"},
		{"/", "beta=y", "cookie"},
		{"/", "beta=yes", "cookie"},
		{"/", "beta=yess", "all"},
		{"/", "beta=no; beta=y", "cookie"},
		{"/42", "", "number"},
		{"/42a", "", "all"},
		{"/4%32", "", "number"},
		{"/42", "beta=1", "number-beta"},
		{"/42?v=2", "", "number"},
		{"/deep/y", "", "deep"},
		{"/deep/x", "", "deep-x"},
	} {
		r := &message.Request{Method: "GET", Host: "x"}
		r.Header.Set("Cookie", c.cookie)
		path, query, _ := strings.Cut(c.target, "?")
		r.Query = "?" + query
		if u, _, err := table.Find(r, path, "192.0.2.1"); err != nil || u == nil || u.Name != c.want {
			t.Errorf("%s with cookie %q: route %v, %v; want %s", c.target, c.cookie, u, err, c.want)
		}
	}
	for _, unreachable := range []string{
		`[{"name":"a","match":{"query":[{"name":"x"}]},"respond":{}},
			{"name":"b","match":{"query":[{"name":"x","value":"1"}]},"respond":{}}]`,
		`[{"name":"a","match":{"regexp":"/x.*"},"respond":{}},{"name":"b","match":{"regexp":"/x.*"},"respond":{}}]`,
		`[{"name":"a","match":{"clients":["10.0.0.0/8"]},"respond":{}},
			{"name":"b","match":{"clients":["10.1.0.0/16","10.2.0.1"]},"respond":{}}]`,
	} {
		if err := parse(t, unreachable).Validate(); err == nil {
			t.Errorf("%s was accepted, although nothing reaches route b", unreachable)
		}
	}
}

func TestRoutesAreRefused(t *testing.T) {
	const to = `"to":[{"service":"s"}]`
	p := declared(t)
	for _, c := range []struct {
		routes, want string
		late         bool // only the edge refuses it, not the schema in the config service
	}{
		{`[{"name":"",` + to + `}]`, "routes[0].name", false},
		{`[{"name":"a b",` + to + `}]`, "routes[0].name", false},
		{`[{"name":"a","match":{"prefix":"/a"},` + to + `},{"name":"a",` + to + `}]`, "is used twice", true},
		{`[{"name":"a","to":[]}]`, "routes[0].to", false},
		{`[{"name":"a","to":[{"service":"s","endpoint":"admin"}]}]`, "admin", false},
		{`[{"name":"a","to":[{"service":"S/x"}]}]`, "to[0].service", false},
		{
			`[{"name":"a","to":[{"service":"s","version":"v1"},{"service":"s","version":"v2"}]}]`, "must have weights",
			false,
		},
		{`[{"name":"a","to":[{"service":"s","weight":1},{"service":"s","weight":1}]}]`, "twice", true},
		{`[{"name":"a","to":[{"service":"s","weight":-1}]}]`, "weight", false},
		{`[{"name":"a","match":{"prefix":"a"},` + to + `}]`, "match", false},
		{`[{"name":"a","match":{"prefix":"/a/../b"},` + to + `}]`, "match", true},
		{`[{"name":"a","match":{"prefix":"/a","path":"/b"},` + to + `}]`, "match.prefix", false},
		{`[{"name":"a","match":{"host":"a:80"},` + to + `}]`, "match.host", false},
		{`[{"name":"a","match":{"host":"a.*"},` + to + `}]`, "match.host", false},
		{`[{"name":"a","match":{"methods":["G T"]},` + to + `}]`, "match.methods[0]", false},
		{`[{"name":"a","match":{"headers":[{"name":"x-bijou-pin"}]},` + to + `}]`, "match.headers[0].name", true},
		{`[{"name":"a","match":{"headers":[{"name":"host"}]},` + to + `}]`, "match.host", true},
		{`[{"name":"a","match":{"path":"/a"},"rewrite":{"prefix":"/b"},` + to + `}]`, "rewrite.prefix", true},
		{`[{"name":"a","rewrite":{"host":"a b"},` + to + `}]`, "rewrite.host", false},
		{`[{"name":"a","timeout":{"header":"0s"},` + to + `}]`, "timeout.header", true},
		{`[{"name":"a","timeout":{"total":"soon"},` + to + `}]`, "timeout.total", false},
		{`[{"name":"a","retry":{"attempts":11},` + to + `}]`, "retry.attempts", false},
		{`[{"name":"a","sticky":"a b",` + to + `}]`, "sticky", false},
		{`[{"name":"a","to":[{}]}]`, "routes[0].to[0].service", false},
		{`[{"name":"a","to":[{"url":"http://a","service":"b"}]}]`, "to[0].url must be empty when service", false},
		{`[{"name":"a","to":[{"url":"http://a","version":"b"}]}]`, "to[0].url must be empty when service", false},
		{`[{"name":"a","to":[{"url":"ftp://a"}]}]`, "to[0].url must begin with http://", false},
		{`[{"name":"a","to":[{"url":"http://a/b"}]}]`, "to[0].url must have no path", true},
		{
			`[{"name":"a","to":[{"url":"http://a","weight":1},{"url":"HTTP://A:80","weight":1}]}]`,
			"is in the list twice", true,
		},
		{`[{"name":"a","to":[{"service":"a","health":{"kind":"tcp"}}]}]`, "to[0].health must be empty", false},
		{`[{"name":"a","to":[{"url":"http://a","health":{"kind":"ping"}}]}]`, "kind must be http, grpc or tcp", false},
		{`[{"name":"a","to":[{"url":"http://a","health":{"kind":"tcp","path":"/a"}}]}]`, "path must be empty unless", true},
		{`[{"name":"a","to":[{"url":"http://a","health":{"kind":"tcp","interval":"often"}}]}]`, "health.interval", false},
		{`[{"name":"a"}]`, "routes[0].to must be set, or one of redirect", false},
		{`[{"name":"a","respond":{},` + to + `}]`, "routes[0].to must be set, or one of redirect", false},
		{`[{"name":"a","respond":{},"redirect":{"to":"/x"}}]`, "routes[0].to must be set, or one of redirect", false},
		{`[{"name":"a","respond":{},"path":"raw"}]`, "routes[0].path", true},
		{`[{"name":"a","respond":{"status":199}}]`, "respond.status", false},
		{`[{"name":"a","respond":{"status":204,"body":"x"}}]`, "respond.body", true},
		{`[{"name":"a","respond":{"body":"` + strings.Repeat("x", 64<<10+1) + `"}}]`, "respond.body", false},
		{`[{"name":"a","redirect":{"to":"//evil.example"}}]`, "redirect.to", false},
		{`[{"name":"a","redirect":{"to":"{host}{path}"}}]`, "redirect.to", false},
		{`[{"name":"a","redirect":{"to":"/{nothing}"}}]`, "redirect.to has no variable {nothing}", true},
		{`[{"name":"a","redirect":{"to":"/{1}"}}]`, "redirect.to has no variable {1}", true},
		{`[{"name":"a","redirect":{"to":"/{path"}}]`, "redirect.to must have a closing brace", true},
		{`[{"name":"a","redirect":{"to":"/x","status":200}}]`, "redirect.status", false},
		{`[{"name":"a","files":{"dir":""}}]`, "files.dir", false},
		{`[{"name":"a","files":{"dir":"/x","fallback":"/etc/passwd"}}]`, "files.fallback", false},
		{`[{"name":"a","files":{"dir":"/x","index":"../x"}}]`, "files.index", true},
		{`[{"name":"a","match":{"regexp":"("},` + to + `}]`, "match.regexp must be a regular expression of RE2", true},
		{`[{"name":"a","match":{"regexp":"` + strings.Repeat("x", 513) + `"},` + to + `}]`, "match.regexp", false},
		{`[{"name":"a","match":{"query":[{"name":""}]},` + to + `}]`, "match.query[0].name", false},
		{`[{"name":"a","match":{"cookies":[{"name":"a b"}]},` + to + `}]`, "match.cookies[0].name", false},
		{
			`[{"name":"a","match":{"cookies":[{"name":"a","value":"1","regexp":"1"}]},` + to + `}]`,
			"match.cookies[0].regexp", true,
		},
		{`[{"name":"a","match":{"clients":["10.0.0.1/8"]},` + to + `}]`, "match.clients[0]", true},
		{`[{"name":"a","match":{"clients":["localhost"]},` + to + `}]`, "match.clients[0]", false},
		{`[{"name":"a","rewrite":{"path":"/a","prefix":"/b"},` + to + `}]`, "rewrite.path", true},
		{`[{"name":"a","rewrite":{"path":"a"},` + to + `}]`, "rewrite.path", false},
		{`[{"name":"a","headers":{"request":{"set":{"Host":"x"}}},` + to + `}]`, "Host is set by the edge", true},
		{
			`[{"name":"a","headers":{"request":{"remove":["X-Forwarded-For"]}},` + to + `}]`,
			"X-Forwarded-For is set by the edge", true,
		},
		{
			`[{"name":"a","headers":{"response":{"add":{"Transfer-Encoding":"x"}}},` + to + `}]`,
			"Transfer-Encoding is set", true,
		},
		{`[{"name":"a","headers":{"response":{"set":{"a b":"x"}}},` + to + `}]`, "headers.response.set", false},
		{`[{"name":"a","headers":{"response":{"set":{"a":"1","A":"2"}}},` + to + `}]`, "is there twice", true},
		{`[{"name":"a","headers":{"response":{"set":{"a":"x\n"}}},` + to + `}]`, "control characters", true},
		{`[{"name":"a","path":"any",` + to + `}]`, "routes[0].path must be refuse, normalize or raw", false},
		{`[{"name":"a","cors":{},` + to + `}]`, "cors.origins", false},
		{`[{"name":"a","clientCert":{},` + to + `}]`, "clientCert.ca", false},
		{`[{"name":"a","clientCert":{"ca":""},` + to + `}]`, "clientCert.ca must be certificates", false},
		{`[{"name":"a","clientCert":{"ca":"/etc/ca.pem"},` + to + `}]`, "clientCert.ca must be certificates", false},
		{
			`[{"name":"a","clientCert":{"ca":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"},` + to + `}]`,
			"clientCert.ca must be certificates", true,
		},
		{`[{"name":"a","cors":{"origins":[]},` + to + `}]`, "cors.origins must have at least one origin", false},
		{`[{"name":"a","cors":{"origins":["app.example.org"]},` + to + `}]`, "cors.origins[0] must be *, an origin", false},
		{`[{"name":"a","cors":{"origins":["https://a.example/"]},` + to + `}]`, "cors.origins[0] must be *", false},
		{`[{"name":"a","cors":{"origins":["https://a.*.example"]},` + to + `}]`, "cors.origins[0] must be *", false},
		{`[{"name":"a","cors":{"origins":["https://*.org"]},` + to + `}]`, "cors.origins[0] must be *, an origin", true},
		{`[{"name":"a","cors":{"origins":["*","null"]},` + to + `}]`, "cors.origins[1] must not be null", false},
		{`[{"name":"a","cors":{"origins":["*"],"credentials":true},` + to + `}]`, "cors.credentials must be false", false},
		{
			`[{"name":"a","cors":{"origins":["https://a.example"],"credentials":true,"expose":["*"]},` + to + `}]`,
			"cors.expose must list names", true,
		},
		{`[{"name":"a","cors":{"origins":["*"],"methods":["P T"]},` + to + `}]`, "cors.methods[0]", false},
		{`[{"name":"a","cors":{"origins":["*"],"headers":["X-A, X-B"]},` + to + `}]`, "cors.headers[0]", false},
		{`[{"name":"a","cors":{"origins":["*"],"maxAge":"600"},` + to + `}]`, "cors.maxAge must be a duration", false},
		{`[{"name":"a","cors":{"origins":["*"],"maxAge":"48h"},` + to + `}]`, "cors.maxAge must be from 1s to 24h", true},
		{`[{"name":"a","limits":[{"rate":1}],` + to + `}]`, "limits[0].by must be route, client, identity or", false},
		{`[{"name":"a","limits":[{"by":"header:","rate":1}],` + to + `}]`, "limits[0].by must be route, client, identity or", false},
		{`[{"name":"a","limits":[{"by":"header:x-real-ip","rate":1}],` + to + `}]`, "must not be X-Real-Ip", true},
		{`[{"name":"a","limits":[{"by":"client"}],` + to + `}]`, "limits[0].rate must be set, or concurrency", false},
		{`[{"name":"a","limits":[{"by":"client","rate":-1}],` + to + `}]`, "limits[0].rate", false},
		{`[{"name":"a","limits":[{"by":"client","rate":1,"name":"a b"}],` + to + `}]`, "limits[0].name", false},
		{`[{"name":"a","limits":[{"by":"client","rate":1,"per":"soon"}],` + to + `}]`, "limits[0].per", false},
		{`[{"name":"a","limits":[{"by":"client","rate":1,"per":"1.5s"}],` + to + `}]`, "limits[0].per", true},
		{`[{"name":"a","limits":[{"by":"client","rate":1,"per":"25h"}],` + to + `}]`, "limits[0].per", true},
		{`[{"name":"a","limits":[{"by":"client","concurrency":1,"burst":1}],` + to + `}]`, "limits[0].burst", true},
		{`[{"name":"a","limits":[{"by":"client","concurrency":1,"per":"1s"}],` + to + `}]`, "limits[0].per", true},
		{
			`[{"name":"a","limits":[{"by":"client","rate":1,"per":"24h","burst":8}],` + to + `}]`, "limits[0].burst",
			true,
		},
		{
			`[{"name":"a","limits":[{"by":"client","rate":1},{"by":"client","concurrency":1}],` + to + `}]`,
			"limits[1].name must differ", true,
		},
		{
			`[{"name":"a","limits":[` + strings.Repeat(`{"by":"route","rate":1},`, 4) + `{"by":"route","rate":1}],` + to +
				`}]`, "limits must have at most 4", false,
		},
		{`[{"name":"a","maxHeader":32769,` + to + `}]`, "maxHeader must be 1 to 32768", false},
		{`[{"name":"a","mirror":{},` + to + `}]`, "mirror", false},
		{`[{"name":"a","mirror":{"to":{"service":"S"}},` + to + `}]`, "mirror.to.service", false},
		{`[{"name":"a","mirror":{"to":{"service":"s","endpoint":"admin"}},` + to + `}]`, "mirror.to.endpoint", false},
		{`[{"name":"a","mirror":{"to":{"url":"ftp://x"}},` + to + `}]`, "mirror.to.url", false},
		{`[{"name":"a","mirror":{"to":{"service":"s","weight":1}},` + to + `}]`, "weight", false},
		{`[{"name":"a","mirror":{"to":{"service":"s"}},"respond":{}}]`, "mirror must be empty", true},
		{`[{"name":"a","mirror":{"to":{"service":"s"},"share":2},` + to + `}]`, "mirror.share", false},
		{`[{"name":"a","mirror":{"to":{"service":"s"},"concurrency":1001},` + to + `}]`, "mirror.concurrency", false},
		{`[{"name":"a","mirror":{"to":{"service":"s"},"maxBody":1048577},` + to + `}]`, "mirror.maxBody", false},
		{`[{"name":"a","grpcWeb":true,"respond":{}}]`, "grpcWeb must be false", true},
		{`[{"name":"a","upgrade":["a b"],` + to + `}]`, "upgrade[0] must be a protocol", false},
		{`[{"name":"a","upgrade":["x","a/b/c"],` + to + `}]`, "upgrade[1] must be a protocol", false},
		{`[{"name":"a","upgrade":["H2C"],` + to + `}]`, "upgrade[0] must not be H2C", false},
		{`[{"name":"a","upgrade":["http/2.0"],` + to + `}]`, "upgrade[0] must not be http/2.0", false},
		{`[{"name":"a","upgrade":["TLS/1.0"],` + to + `}]`, "upgrade[0] must not be TLS/1.0", false},
		{
			`[{"name":"a","upgrade":["1","2","3","4","5","6","7","8","9"],` + to + `}]`, "upgrade must have at most 8",
			false,
		},
		{`[{"name":"a","accessLog":{"mode":"some"},` + to + `}]`, "accessLog.mode must be all, errors or off", false},
		{`[{"name":"a","accessLog":{"share":1.5},` + to + `}]`, "accessLog.share must be above 0", false},
		{`[{"name":"a","compress":{},` + to + `}]`, "compress.types", false},
		{`[{"name":"a","compress":{"types":[]},` + to + `}]`, "compress.types must have at least one", false},
		{`[{"name":"a","compress":{"types":["text/*"]},` + to + `}]`, "compress.types[0] must be a media type", false},
		{`[{"name":"a","compress":{"types":["text"]},` + to + `}]`, "compress.types[0] must be a media type", false},
		{`[{"name":"a","compress":{"types":["text/html; charset=utf-8"]},` + to + `}]`, "compress.types[0]", false},
		{`[{"name":"a","compress":{"types":["a/b"],"minBytes":-1},` + to + `}]`, "compress.minBytes", false},
		{withAuth(``), "auth.methods must have 1 to 8", false},
		{withAuth(`"methods":[]`), "auth.methods must have 1 to 8", false},
		{withAuth(`"methods":[` + strings.Repeat(`{"apiKey":{}},`, 8) + `{"apiKey":{}}]`), "auth.methods must have", false},
		{withAuth(`"methods":[{}]`), "auth.methods[0] must have one of jwt", false},
		{withAuth(`"methods":[{"apiKey":{},"jwt":{"issuer":"https://a","anyAudience":true}}]`), "auth.methods[0] must", false},
		{withAuth(`"methods":[{"clientCert":{}}]`), "auth.methods[0].clientCert needs clientCert", true},
		{withJWT(`"anyAudience":true`), "auth.methods[0].jwt.issuer must be a URL", false},
		{withJWT(`"issuer":"id.example","anyAudience":true`), "jwt.issuer must be a URL", false},
		{withJWT(`"issuer":"file:///etc/passwd","anyAudience":true`), "jwt.issuer must be a URL", false},
		{withJWT(`"issuer":"https://a:b@id.example","anyAudience":true`), "jwt.issuer must be a URL", true},
		{withJWT(`"issuer":"https://id.example","jwks":"keys","anyAudience":true`), "jwt.jwks must be a URL", false},
		{withJWT(`"issuer":"https://id.example"`), "jwt.audiences must have a value", false},
		{withJWT(`"issuer":"https://id.example","audiences":["a"],"anyAudience":true`), "jwt.anyAudience must be false", true},
		{withJWT(`"issuer":"https://id.example","audiences":[""]`), "jwt.audiences[0]", false},
		{withJWT(`"issuer":"https://id.example","audiences":["a"],"algorithms":["none"]`), "jwt.algorithms[0]", false},
		{withJWT(`"issuer":"https://id.example","audiences":["a"],"algorithms":["HS256"]`), "jwt.algorithms[0]", false},
		{withJWT(`"issuer":"https://id.example","audiences":["a"],"leeway":"1h"`), "jwt.leeway", true},
		{withJWT(`"issuer":"https://id.example","audiences":["a"],"leeway":"some"`), "jwt.leeway", false},
		{withJWT(`"issuer":"https://id.example","audiences":["a"],"cookie":"a b"`), "jwt.cookie", false},
		{withAuth(`"methods":[{"apiKey":{"header":"X_Key"}}]`), "apiKey.header must be a name", false},
		{withAuth(`"methods":[{"apiKey":{"header":"Cookie"}}]`), "apiKey.header must not be Cookie", true},
		{withAuth(`"methods":[{"hook":{}}]`), "auth.methods[0].hook.url must be a URL", false},
		{withAuth(`"methods":[{"hook":{"url":"tcp://a:1"}}]`), "hook.url must begin with http://", false},
		{withAuth(`"methods":[{"hook":{"url":"http://a/x?y=z"}}]`), "hook.url must be a URL", false},
		{withAuth(`"methods":[{"hook":{"url":"grpc://a:1/x"}}]`), "hook.url must have a port", true},
		{withAuth(`"methods":[{"hook":{"url":"grpc://a"}}]`), "hook.url must have a port", true},
		{withAuth(`"methods":[{"hook":{"url":"http://a","timeout":"11s"}}]`), "hook.timeout must be", true},
		{withAuth(`"methods":[{"hook":{"url":"http://a","timeout":"x"}}]`), "hook.timeout must be", false},
		{withAuth(`"methods":[{"hook":{"url":"http://a","claims":{"sub":"A_B"}}}]`), `hook.claims["sub"] must be`, false},
		{withLogin(``), "login.issuer must be a URL", false},
		{withLogin(`"issuer":"https://id.example","cookieKeys":"k"`), "login.clientId must have", false},
		{withLogin(`"issuer":"https://id.example","clientId":"a"`), "login.cookieKeys must be the name", false},
		{withLogin(loginOf + `,"clientSecret":"/etc/passwd"`), "login.clientSecret must be the name", false},
		{withLogin(loginOf + `,"clientSecret":"../x"`), "login.clientSecret must be the name", false},
		{withLogin(loginOf + `,"session":"1000h"`), "login.session must be", true},
		{withLogin(loginOf + `,"session":"long"`), "login.session must be", false},
		{withLogin(loginOf + `,"path":"login"`), "login.path must begin", false},
		{withLogin(loginOf + `,"path":"/a/../b"`), "login.path must begin", true},
		{withLogin(loginOf + `,"path":"/a/"`), "login.path must begin", true},
		{withLogin(loginOf + `,"cookie":"a b"`), "login.cookie must be", false},
		{withLogin(loginOf + `,"cookie":"__Host-a"`), "login.cookie must be", true},
		{withLogin(loginOf + `,"afterLogout":"https://evil.example"`), "login.afterLogout must begin", false},
		{withLogin(loginOf + `,"scopes":["a b"]`), "login.scopes[0]", false},
		{withLogin(loginOf + `,"algorithms":["HS256"]`), "login.algorithms[0]", false},
		{
			`[{"name":"a","match":{"prefix":"/a"},` + to + `,"auth":{"methods":[{"login":{` + loginOf + `}}]}}]`,
			"login.path leads to no route with this log-in: requests for /.login/callback", true,
		},
		{
			`[{"name":"a","match":{"prefix":"/a"},` + to + `,"auth":{"methods":[{"login":{` + loginOf + `}}]}},{"name":"b",` + to +
				`,"auth":{"methods":[{"login":{` + loginOf + `,"cookie":"other"}}]}}]`,
			"login.path leads to no route", true,
		},
		{withAuth(keyed + `"allow":[{}]`), "auth.allow[0] must have scopes", false},
		{withAuth(keyed + `"allow":[{"scopes":["a b"]}]`), "auth.allow[0].scopes[0]", false},
		{withAuth(keyed + `"allow":[{"claims":{"a":[]}}]`), `auth.allow[0].claims["a"] must have at least one`, false},
		{withAuth(keyed + `"allow":[{"claims":{"":["a"]}}]`), `auth.allow[0].claims[""] must be the name`, true},
		{withAuth(keyed + `"allow":[{"keys":[""]}]`), "auth.allow[0].keys[0]", false},
		{withAuth(keyed + `"claims":{"sub":"X_User"}`), `auth.claims["sub"] must be a header field`, false},
		{withAuth(keyed + `"claims":{"sub":"Authorization"}`), `auth.claims["sub"] must not be Authorization`, true},
		{withAuth(keyed + `"claims":{"sub":"x-forwarded-for"}`), `auth.claims["sub"] must not be X-Forwarded-For`, true},
		{withAuth(keyed + `"claims":{"":"X-User"}`), `auth.claims[""] must be the name`, false},
		{withAuth(keyed + `"claims":{"a":"X-User","b":"x-user"}`), `auth.claims["b"] must differ`, true},
		{withAuth(keyed + `"claims":{"email":"X-User"}`), `auth.claims["email"] is a claim that no method`, true},
		{
			withAuth(`"methods":[{"login":{` + loginOf + `,"claims":["realm"]}}],"claims":{"realm.roles":"X-Roles"},` +
				`"allow":[{"claims":{"sub":["a"]}},{"claims":{"groups":["a"]}}]`),
			`auth.allow[1].claims["groups"] is a claim that no method`, true,
		},
		{
			`[{"name":"a","match":{"headers":[{"name":"x_user"}]},` + to + `,"auth":{` + keyed + `"claims":{"sub":"X-User"}}}]`,
			`auth.claims["sub"] must not be X-User, by which`, true,
		},
		{
			`[{"name":"a","headers":{"request":{"add":{"x-user":"b"}}},` + to + `,"auth":{` + keyed + `"claims":{"sub":"X-User"}}}]`,
			`auth.claims["sub"] must not be X-User, which headers.request`, true,
		},
		{`[{"name":"a","limits":[{"by":"identity","rate":1}],` + to + `}]`, "limits[0].by must not be identity without auth", true},
		{`[{"name":"a","hedge":{},` + to + `}]`, "hedge.after must be a duration", false},
		{`[{"name":"a","hedge":{"after":"soon"},` + to + `}]`, "hedge.after must be a duration", false},
		{`[{"name":"a","hedge":{"after":"2m"},` + to + `}]`, "hedge.after must be a duration", true},
		{`[{"name":"a","hedge":{"after":"1s"},"respond":{}}]`, "hedge must be empty without targets", true},
		{`[{"name":"a","hedge":{"after":"1s"},"retry":{"attempts":1},` + to + `}]`, "hedge must be empty with retry.attempts 1", true},
		{`[{"name":"a","hash":{},` + to + `}]`, "hash.by must be client, path, identity or", false},
		{`[{"name":"a","hash":{"by":"client:a"},` + to + `}]`, "hash.by must be client, path, identity or", false},
		{`[{"name":"a","hash":{"by":"cookie:"},` + to + `}]`, "hash.by must be client, path, identity or", false},
		{`[{"name":"a","hash":{"by":"header:a b"},` + to + `}]`, "hash.by must be client, path, identity or", false},
		{`[{"name":"a","hash":{"by":"header:x-real-ip"},` + to + `}]`, "hash.by must not be X-Real-Ip", true},
		{`[{"name":"a","hash":{"by":"identity"},` + to + `}]`, "hash.by must not be identity without auth", true},
		{`[{"name":"a","hash":{"by":"query:a","set":true},` + to + `}]`, "hash.set must be false: only a cookie", false},
		{`[{"name":"a","hash":{"by":"path"},"respond":{}}]`, "hash must be empty without targets", true},
		{
			`[{"name":"a","hash":{"by":"cookie:bijou-session","set":true},` + to + `,"auth":{"methods":[{"login":{` + loginOf +
				`}}]}}]`, "hash.set must be false: bijou-session is a cookie of auth", true,
		},
		// The same conditions, and routes that no request can reach.
		{
			`[{"name":"a","match":{"prefix":"/"},` + to + `},{"name":"b",` + to +
				`}]`, `is the same as that of route "a"`,
			true,
		},
		{
			`[{"name":"a","match":{"methods":["GET","PUT"]},` + to + `},{"name":"b","match":{"methods":["PUT"]},` + to +
				`}]`,
			`route "a" takes all`, true,
		},
		{`[{"name":"a","match":{"headers":[{"name":"X"}]},` + to +
			`},{"name":"b","match":{"headers":[{"name":"x","value":"1"}]},` + to + `}]`, `"b"`, true},
	} {
		err := parse(t, c.routes).Validate()
		if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.routes, err, c.want)
		}
		if err := p.Check(c.routes); (err != nil) == c.late {
			t.Errorf("%s: the schema gives the error %v, want an error: %t", c.routes, err, !c.late)
		}
	}
}

// withAuth is a route with the inside of auth, withJWT one with the inside of the method jwt.
func withAuth(text string) string {
	return `[{"name":"a","to":[{"service":"s"}],"auth":{` + text + `}}]`
}

func withJWT(text string) string { return withAuth(`"methods":[{"jwt":{` + text + `}}]`) }

// withLogin is a route with the inside of the method login.
func withLogin(text string) string { return withAuth(`"methods":[{"login":{` + text + `}}]`) }

const loginOf = `"issuer":"https://id.example","clientId":"a","cookieKeys":"k"`

const keyed = `"methods":[{"apiKey":{}}],`

// The edge, which has the routes, and the config service, which has only their schema, must give the same answer.
func TestNamesInRoutesFollowTheCommonRules(t *testing.T) {
	p := declared(t)
	for rule, set := range map[*names.Rule][]func(*routes.Route, string){
		&names.ID: {
			func(r *routes.Route, name string) { r.Name = name },
			func(r *routes.Route, name string) { r.To[0].Version = name },
		},
		&names.Service: {
			func(r *routes.Route, name string) { r.To[0].Service = name },
			func(r *routes.Route, name string) { r.To[0].Endpoint = name },
		},
	} {
		for _, set := range set {
			with := func(name string) routes.Routes {
				list := routes.Routes{{Name: "a", To: []routes.Target{{Service: "s"}}}}
				set(&list[0], name)
				return list
			}
			namestest.Check(t, *rule, func(name string) error { return with(name).Validate() })
			namestest.Check(t, *rule, func(name string) error {
				list := with(name)
				return p.Check(list.String())
			})
		}
	}
}

func TestRoutesAreAFlag(t *testing.T) {
	var r routes.Routes
	for _, text := range []string{`{}`, `[{"nam":"a"}]`, toWeb + toWeb, `[{"name":"a","to":[]}]`} {
		if err := r.Set(text); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
	if err := r.Set(toWeb); err != nil {
		t.Fatal(err)
	}
	var again routes.Routes
	if err := again.Set(r.String()); err != nil || again[0].Name != "web" {
		t.Errorf("String gives %s, which reads as %v, %v", r.String(), again, err)
	}
}

func TestAmbiguousPathsAreRefused(t *testing.T) {
	for _, good := range []string{
		"/", "/a", "/a/", "/a/b.c", "/.well-known/x", "/...", "/a..b", "/%C3%A9", "/a%20b",
		"/a;b=c", "/a=b&c", "/%41",
	} {
		if err := routes.Unambiguous(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "a", "*", "//", "//a", "/a//b", "/.", "/..", "/./a", "/a/.", "/a/..", "/a/../b", "/%2e%2e/a", "/.%2E/a",
		"/%2e",
		"/a/..;/b", "/..;x=y/b", "/.;/",
		"/a%2fb", "/a%2Fb", "/a%5cb", "/a\\b", "/%00", "/%0a", "/%7f", "/%", "/%4", "/%zz", "/a b", "/a\x00b",
		"/a%2f..%2fb",
	} {
		if routes.Unambiguous(bad) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	for _, c := range []struct{ path, prefix, to, want string }{
		{"/api/x", "/api", "/", "/x"},
		{"/api", "/api", "/", "/"},
		{"/api/", "/api", "/", "/"},
		{"/api/x", "/api/", "/", "/x"},
		{"/api/x/", "/api", "/v2", "/v2/x/"},
		{"/api", "/api", "/v2", "/v2"},
		{"/%61pi/%C3%A9", "/api", "/", "/%C3%A9"},
		{"/x", "/", "/v2/", "/v2/x"},
	} {
		if got := routes.ReplacePrefix(c.path, len(c.prefix), c.to); got != c.want {
			t.Errorf("%s with %s for %s: %s, want %s", c.path, c.to, c.prefix, got, c.want)
		}
	}
}

// FuzzRoutes: routes that Validate accepts can be used and published, the index finds the same route as trying all, and
// each route of a valid table is reached by a request.
func FuzzRoutes(f *testing.F) {
	f.Add(toWeb, "x", "/", "GET")
	f.Add(`[{"name":"a","match":{"host":"*.x.y","prefix":"/a"},"to":[{"service":"s"}]},
		{"name":"b","match":{"path":"/a"},"to":[{"service":"s"}]}]`, "z.x.y", "/a/b", "PUT")
	f.Add(`[{"name":"a","match":{"methods":["GET"],"headers":[{"name":"q","value":"1"}]},
		"to":[{"service":"s","weight":1},{"service":"s","version":"2"}]}]`, "", "/", "GET")
	f.Add(everything, "a.x.y", "/a", "GET")
	p := declared(f)
	f.Fuzz(func(t *testing.T, text, host, path, method string) {
		var list routes.Routes
		if json.Unmarshal([]byte(text), &list) != nil || list.Validate() != nil {
			return
		}
		if got, want := routes.Find(list, host, path, method, nil), routes.FindWithoutIndex(list, host, path,
			method, nil); got != want {
			t.Errorf("%s %s%s: %q by the index, %q without", method, host, path, got, want)
		}
		for _, r := range list {
			m, h := "OTHER", http.Header{}
			if m := r.Match; len(m.Methods)+len(m.Regexp)+len(m.Query)+len(m.Cookies)+len(m.Clients) > 0 ||
				slices.ContainsFunc(m.Headers, func(c routes.Condition) bool { return c.Regexp != "" }) {
				continue // the union of others may take them all, and a text for an expression is not known
			}
			for _, c := range r.Match.Headers {
				value := c.Value
				if value == "" {
					value = "any value"
				}
				h.Add(c.Name, value)
			}
			host := strings.Replace(r.Match.Host, "*", "some-name", 1)
			path := r.Match.Path
			if path == "" {
				path = r.Match.Prefix
			}
			if path == "" {
				path = "/"
			}
			if routes.Find(list, host, path, m, h) == "" {
				t.Errorf("no request reaches route %q of %s", r.Name, text)
			}
		}
		var again routes.Routes
		if err := again.Set(list.String()); err != nil {
			t.Errorf("reading back %s: %v", list.String(), err)
		}
		if err := p.Check(list.String()); err != nil {
			t.Errorf("routes that the edge accepts cannot be published: %s: %v", list.String(), err)
		}
	})
}

// FuzzPath: an accepted path has only one meaning. No segment is a dot segment after any number of decodings, and a
// rewritten path is accepted, too.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/%2e%2e/", "/..;/a", "/a%2fb", "//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if routes.Unambiguous(path) != nil {
			return
		}
		if got := routes.ReplacePrefix(path, 1, "/x"); routes.Unambiguous(got) != nil {
			t.Errorf("%q became %q", path, got)
		}
		for strings.Contains(path, "%") { // servers may decode it more than once
			plain := unescapeOnce(path)
			if plain == path {
				break
			}
			if strings.Contains(path, "%25") { // the edge does not check what is escaped twice
				return
			}
			path = plain
		}
		if strings.ContainsAny(path, "\\\x00\r\n") {
			t.Errorf("%q was accepted", path)
		}
		for i, segment := range strings.Split(path, "/") {
			segment, _, _ = strings.Cut(segment, ";")
			if segment == "." || segment == ".." {
				t.Errorf("%q was accepted", path)
			}
			if i > 0 && segment == "" && strings.Contains(path, "//") {
				t.Errorf("%q was accepted", path)
			}
		}
	})
}

func unescapeOnce(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			const hex = "0123456789abcdef"
			hi, lo := strings.IndexByte(hex, s[i+1]|0x20), strings.IndexByte(hex, s[i+2]|0x20)
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// everything is a table that uses each field.
const toWeb = `[{"name":"web","match":{"prefix":"/"},"to":[{"service":"web"}]}]`

const everything = `[{"name":"a","match":{"host":"*.x.y","prefix":"/a","methods":["GET"],
		"headers":[{"name":"q","value":"1"}]},
	"to":[{"service":"s","endpoint":"grpc","version":"v1","weight":1},{"service":"s"}],
	"rewrite":{"prefix":"/","host":"z:80"}, "timeout":{"header":"1.5s","total":"1m30s"},
	"retry":{"attempts":2,"methods":["POST"]},"criticality":"SHEDDABLE","sticky":"id","hash":{"by":"cookie:id","set":true},"hedge":{"after":"200ms"},"maxBody":-1,
	"circuit":{"countErrors":true},"grpcWeb":true,"mirror":{"to":{"service":"m"},"share":0.5,"concurrency":2,"maxBody":3},"accessLog":{"mode":"errors","share":0.5},"upgrade":["websocket","SPDY/3.1"],"path":"raw","cors":{"origins":["https://a.example","https://*.b.example"],
	"methods":["PUT"],"headers":["X-A"],"expose":["X-B"],"credentials":true,"maxAge":"10m"},
	"maxHeader":4096,"auth":{"methods":[{"jwt":{"issuer":"https://id.example","jwks":"https://id.example/keys",
	"audiences":["a"],"algorithms":["ES256","EdDSA"],"leeway":"30s","cookie":"t","pass":true}},
	{"apiKey":{"header":"X-Key"}},{"hook":{"url":"grpc://a:1","claims":{"sub":"X-U"},"timeout":"1s","failOpen":true}},
	{"login":{"issuer":"https://id.example","clientId":"c","clientSecret":"s","cookieKeys":"k","scopes":["email"],
	"claims":["email"],"algorithms":["ES256"],"session":"1h","path":"/a/in","cookie":"c","afterLogout":"/a"}}],"optional":true,"allow":[{"scopes":["a"],"claims":{"g":["x","y"]}},{"keys":["ci"]}],
	"claims":{"sub":"X-User","email":"X-Forwarded-Email"}},
	"limits":[{"by":"header:x-key","rate":50,"per":"1m0s","burst":100,"shared":true},
	{"by":"client","concurrency":8,"name":"c"},{"by":"identity","rate":5}],
	"compress":{"types":["text/html","Application/JSON"],"minBytes":1},
	"headers":{"request":{"remove":["X-A"],"set":{"X-B":"{client}"}},"response":{"add":{"X-C":"{{1}"}}}},
	{"name":"b","match":{"regexp":"/b/(?P<id>.*)","query":[{"name":"q","regexp":"[0-9]+"}],"cookies":[{"name":"c"}],
	"clients":["10.0.0.0/8","::1"]},"rewrite":{"path":"/{id}"},"to":[{"service":"s"}]},
	{"name":"u","match":{"prefix":"/u"},"to":[{"url":"https://u.example","health":{"kind":"http","path":"/h","host":"h",
	"interval":"1s","timeout":"1s","healthy":1,"unhealthy":2},"weight":1},{"url":"unix:///run/u.sock"}]},
	{"name":"c","match":{"prefix":"/c"},"redirect":{"to":"https://{host}{rest}{query}","status":301}},
	{"name":"d","match":{"prefix":"/d"},"respond":{"status":404,"type":"text/html","body":"x"}},
	{"name":"e","match":{"prefix":"/e"},"files":{"dir":"/srv","index":"a","fallback":"b","precompressed":true}}]`

// declared is the setting as it is declared at the config service.
func declared(t testing.TB) *config.Property {
	t.Helper()
	p, err := config.ParseProperty(&configv1.Property{
		Name: "routes", Type: configv1.Type_TYPE_JSON, DefaultValue: "[]", JsonSchema: routes.Routes(nil).JSONSchema(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const pathModes = `[
	{"name":"store","match":{"prefix":"/s3"},"path":"raw","to":[{"service":"store"}]},
	{"name":"moved","match":{"prefix":"/moved"},"path":"raw","rewrite":{"prefix":"/bucket"},"to":[{"service":"store"}]},
	{"name":"root","match":{"prefix":"/root/"},"path":"raw","rewrite":{"prefix":"/"},"to":[{"service":"store"}]},
	{"name":"files","match":{"prefix":"/files"},"path":"normalize","to":[{"service":"files"}]},
	{"name":"web","to":[{"service":"web"}]}]`

// FuzzPathModes: a normalized path has one meaning, and a raw one that is accepted is below the route's prefix for
// servers that decode it, with or without slashes, and then clean it.
func FuzzPathModes(f *testing.F) {
	for _, s := range []string{"/s3/a//b", "/s3/a%2f..%2fb", "/files/%2e%2e//x", "/s3/..;/a", "/moved/a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		name, sent, err := routes.FindPath(pathModes, p)
		if err != nil || routes.Unambiguous(p) == nil {
			return
		}
		switch name {
		case "files":
			if routes.Unambiguous(sent) != nil {
				t.Errorf("%q became %q, which has more than one meaning", p, sent)
			}
		case "store":
			plain := unescapeOnce(p)
			for _, read := range []string{path.Clean(p), path.Clean(plain), path.Clean(strings.ReplaceAll(plain, `\`, "/"))} {
				if read != "/s3" && !strings.HasPrefix(read, "/s3/") {
					t.Errorf("%q was accepted, and may be read as %q", p, read)
				}
			}
			if sent != p {
				t.Errorf("%q became %q", p, sent)
			}
		case "moved", "root":
		default:
			t.Errorf("%q was accepted by route %q", p, name)
		}
	})
}
