package cli_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"bijou.dev/cmd/bijou/internal/cli"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"github.com/google/go-cmp/cmp"
)

// withRoutes is a platform whose gateways use some routes, as a value of a layer that was published with revision 7.
func withRoutes(t *testing.T, layer configv1.Layer, value string) (p *platform, published *[]*configv1.PublishRequest) {
	published = &[]*configv1.PublishRequest{}
	p = &platform{
		explain: func(q *configv1.ExplainRequest) (*configv1.ExplainResponse, error) {
			if q.GetName() != "gateway.routes" || q.GetIdentity().GetApp() != "gateway" {
				t.Errorf("asked for %v", q)
			}
			return &configv1.ExplainResponse{Candidates: []*configv1.Candidate{{Wins: true, Value: &configv1.Value{
				Name: q.GetName(), Value: value, Layer: layer, Revision: 7,
			}}}}, nil
		},
		publish: func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
			*published = append(*published, q)
			return &configv1.PublishResponse{Revision: 8}, nil
		},
		status: &configv1.StatusResponse{Revision: 8, Current: 1, Total: 1},
		admin: func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			switch {
			case err != nil || r.Method != http.MethodPost || r.URL.Path != "/routes/check":
				http.NotFound(w, r)
			case strings.Contains(string(body), "bad"):
				errs.WriteProblem(w, r, errs.Errorf(errs.Invalid, "route 1").Field("routes[1].to", "is bad"))
			default:
				_, _ = io.WriteString(w, "{}") // the test fails if the client has left
			}
		},
	}
	return p.start(t), published
}

func TestRouteAdd(t *testing.T) {
	const before = `{"name":"web","to":[{"service":"web"}],"newer":1}`
	for _, c := range []struct{ args, want, try string }{
		{
			"--to http://127.0.0.1:3000",
			`{"name":"app","match":{"host":"app.localhost"},"to":[{"url":"http://127.0.0.1:3000"}]}`,
			"curl http://app.localhost:8080/\n",
		},
		{
			"shop --to a --to b --prefix /shop --strip-prefix",
			`{"name":"shop","match":{"prefix":"/shop"},"to":[{"service":"a","weight":1},{"service":"b","weight":1}],` +
				`"rewrite":{"prefix":"/"}}`, "/shop\n",
		},
		{
			"old --host old.example --redirect https://example.org{path}",
			`{"name":"old","match":{"host":"old.example"},"redirect":{"to":"https://example.org{path}"}}`,
			"curl -H 'Host: old.example' http://",
		},
		{"f --path /f --files /srv", `{"name":"f","match":{"path":"/f"},"files":{"dir":"/srv"}}`, "/f\n"},
	} {
		p, published := withRoutes(t, configv1.Layer_LAYER_DEFAULT, "["+before+"]")
		p.expect(t, cli.ExitOK, c.try, append([]string{"route", "add"}, strings.Fields(c.args)...)...)
		if len(*published) != 1 {
			t.Errorf("%s: %d values are published, want one", c.args, len(*published))
			continue
		}
		q := (*published)[0]
		if diff := cmp.Diff("["+before+","+c.want+"]", q.GetChanges()[0].GetValue()); diff != "" {
			t.Errorf("%s: routes (-want +got):\n%s", c.args, diff)
		}
		scope := q.GetChanges()[0].GetScope()
		if scope.GetLayer() != configv1.Layer_LAYER_APP || scope.GetApp() != "gateway" ||
			q.GetExpectedRevision() != 7 || !strings.HasPrefix(q.GetReason(), "bijou route add ") || q.GetAuthor() != "ann" {
			t.Errorf("%s: published %v; want the layer of the app gateway, only after revision 7, with a reason and an author",
				c.args, q)
		}
	}
}

func TestRouteOfTheSameNameIsReplacedOnDemand(t *testing.T) {
	p, published := withRoutes(t, configv1.Layer_LAYER_APP, `[{"name":"app","to":[{"service":"a"}]},{"name":"b"}]`)
	p.expect(t, cli.ExitRefused, `the route "app" exists already; --replace replaces it`, "route", "add", "--to", "c")
	if len(*published) != 0 {
		t.Errorf("%v was published", *published)
	}
	p.expect(t, cli.ExitOK, "", "route", "add", "--to", "c", "--replace", "--path", "/", "--wait", "0s", "--dry-run")
	want := `[{"name":"app","match":{"path":"/"},"to":[{"service":"c"}]},{"name":"b"}]`
	if got := (*published)[0].GetChanges()[0].GetValue(); got != want || !(*published)[0].GetDryRun() {
		t.Errorf("published %s, dry %t; want %s, dry", got, (*published)[0].GetDryRun(), want)
	}
}

// The entry has the hash of the key, each time of another one.
func TestRouteKey(t *testing.T) {
	seen := ""
	for range 2 {
		stdout, stderr, code := runCommand(t, nil, "route", "key", "ci", "--json")
		var got struct {
			Key   string
			Entry struct{ Name, SHA256 string }
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
			t.Fatalf("exit code %d, %q, %q, %v", code, stdout, stderr, err)
		}
		sum := sha256.Sum256([]byte(got.Key))
		if got.Entry.Name != "ci" || got.Entry.SHA256 != hex.EncodeToString(sum[:]) || len(got.Key) != 64 ||
			got.Key == seen {
			t.Errorf("key %+v, want a new one with its hash", got)
		}
		seen = got.Key
	}
	stdout, _, code := runCommand(t, nil, "route", "key", "ci")
	if code != 0 || !strings.Contains(stdout, "\nentry: {\"name\": \"ci\", \"sha256\": \"") {
		t.Errorf("exit code %d, %q; want an entry of the setting", code, stdout)
	}
	_, stderr, code := runCommand(t, nil, "route", "key", "a b")
	if code == 0 || !strings.Contains(stderr, "making a key") {
		t.Errorf("exit code %d, %q; want an error", code, stderr)
	}
}

func TestRouteRemove(t *testing.T) {
	p, published := withRoutes(t, configv1.Layer_LAYER_APP, `[{"name":"a"},{"name":"b"}]`)
	p.expect(t, cli.ExitOK, "", "route", "remove", "a", "--wait", "0s")
	if got := (*published)[0].GetChanges()[0].GetValue(); got != `[{"name":"b"}]` {
		t.Errorf("published %s, want b only", got)
	}
	p.expect(t, cli.ExitNotFound, `there is no route "c"`, "route", "remove", "c")
}

func TestRoutesThatAGatewayRefusesAreNotPublished(t *testing.T) {
	p, published := withRoutes(t, configv1.Layer_LAYER_APP, `[{"name":"a"}]`)
	p.expect(t, cli.ExitRefused, "checking the routes: route 1: routes[1].to is bad", "route", "add", "bad", "--to", "x")
	p.admin = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	p.expect(t, cli.ExitUnreachable, "asking a gateway to check the routes", "route", "add", "--to", "x")
	if len(*published) != 0 {
		t.Errorf("%v was published", *published)
	}
	p, _ = withRoutes(t, configv1.Layer_LAYER_OVERRIDE, `[]`)
	p.expect(t, cli.ExitRefused, "has a value in the layer override", "route", "add", "--to", "x")
	p.expect(t, cli.ExitUsage, "--strip-prefix needs --prefix", "route", "add", "--to", "x", "--strip-prefix")
	p.expect(t, cli.ExitUsage, "--to and --files can't be used together", "route", "add", "--to", "x", "--files", "/srv")
	p.expect(t, cli.ExitUsage, "missing flags: --to=TARGET or", "route", "add")
}
