package e2e

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
)

// stories run in this order over one platform.
var stories = []story{
	{"home page and its trace", storyHomePage},
	{"a published setting takes effect everywhere", storySettingPropagates},
	{"a bad setting is refused", storyBadSettingIsRefused},
	{"the command line answers", storyCommandLineAnswers},
	{"versions share the traffic by weight", storyTrafficIsSplitByWeight},
	{"the console shows the state and acts on it", storyConsole},
	{"an instance is killed under load", storyInstanceIsKilled},
	{"an instance is restarted under load", storyInstancesRestart},
	{"recommendations are down", storyRecommendationsAreDown},
	{"etcd is killed and restarted", storyEtcdIsDown},
}

// home is the response of /api/home.
type home struct {
	Profile  struct{ ID, Name string }
	Rows     []row
	Degraded []string
}

type row struct {
	Kind, Name, Note string
	Cards            []struct{ ID, Name string }
}

func (h home) row(kind string) *row {
	i := slices.IndexFunc(h.Rows, func(r row) bool { return r.Kind == kind })
	if i < 0 {
		return nil
	}
	return &h.Rows[i]
}

// viewer returns the id of a profile.
func viewer(ctx context.Context, p platform) (string, error) {
	var all struct{ Profiles []struct{ ID string } }
	if err := getJSON(ctx, edge(p)+"/api/profiles", &all); err != nil {
		return "", err
	}
	if len(all.Profiles) == 0 {
		return "", fmt.Errorf("there are no profiles")
	}
	return all.Profiles[0].ID, nil
}

// waitForHome waits for a home page without fallbacks, and returns its URL.
func waitForHome(t testing.TB, p platform) (url string) {
	t.Helper()
	eventually(t, 60*time.Second, "a home page without fallbacks", func(ctx context.Context) error {
		id, err := viewer(ctx, p)
		if err != nil {
			return err
		}
		url = edge(p) + "/api/home?profile=" + id
		var h home
		if err := getJSON(ctx, url, &h); err != nil {
			return err
		}
		if len(h.Degraded) > 0 || h.row("popular") == nil || h.row("recommended") == nil ||
			h.row("recommended").Note != "" {
			return fmt.Errorf("the home page has fallbacks or lacks rows: %+.500v", h)
		}
		return nil
	})
	return url
}

func storyHomePage(t *testing.T, p platform) {
	waitForHome(t, p)
	page, err := get(t.Context(), edge(p)+"/")
	if err != nil || page.status != 200 || !strings.Contains(page.body, "<h1") ||
		!strings.Contains(page.header.Get("Content-Type"), "text/html") {
		t.Fatalf("the home page: %d %v\n%.500s", page.status, err, page.body)
	}
	id, err := viewer(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	var raw [24]byte
	if _, err := rand.Read(raw[:]); err != nil {
		t.Fatal(err)
	}
	trace, span := hex.EncodeToString(raw[:16]), hex.EncodeToString(raw[16:])
	a, err := get(t.Context(), edge(p)+"/api/home?profile="+id, "traceparent", "00-"+trace+"-"+span+"-01")
	if err != nil || a.status != 200 {
		t.Fatalf("home: %d %v", a.status, err)
	}
	want := []string{"catalog", "gateway", "profiles", "ratings", "recommendations", "viewing", "web"}
	eventually(t, 20*time.Second, "the trace of the home page", func(ctx context.Context) error {
		var spans []struct {
			ID, ParentID  string
			LocalEndpoint struct{ ServiceName string }
		}
		if err := getJSON(ctx, "http://"+p.addr("tracing", 9411)+"/api/v2/trace/"+trace, &spans); err != nil {
			return err
		}
		seen, ids := map[string]bool{}, map[string]bool{span: true}
		for _, s := range spans {
			seen[s.LocalEndpoint.ServiceName], ids[s.ID] = true, true
		}
		for _, s := range spans {
			if !ids[s.ParentID] {
				return fmt.Errorf("span %s of %s has a parent %q that is not in the trace", s.ID,
					s.LocalEndpoint.ServiceName, s.ParentID)
			}
		}
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
			return fmt.Errorf("the trace joins %v, want %v", got, want)
		}
		return nil
	})
}

// effective returns the value of a setting in a process and its layer, from the admin page.
func effective(ctx context.Context, p platform, instance, name string) (value, layer string, err error) {
	var page struct {
		Settings []struct{ Name, Value, Layer string }
	}
	if err := getJSON(ctx, "http://"+p.addr(instance, 9090)+"/config", &page); err != nil {
		return "", "", err
	}
	for _, s := range page.Settings {
		if s.Name == name {
			return s.Value, s.Layer, nil
		}
	}
	return "", "", fmt.Errorf("%s has no setting %q", instance, name)
}

// status is `bijou config status --json`.
type status struct {
	Revision       json.Number
	Current, Total int
}

// revision waits until every instance runs the newest revision of the settings, and returns it. In a stack that has
// just started, some instances are not connected to config yet.
func revision(t testing.TB, p platform) string {
	t.Helper()
	var s status
	eventually(t, 20*time.Second, "all instances to run the newest revision", func(context.Context) error {
		code, out := bijou(t, p, "config", "status", "--json")
		if code != 0 {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		if err := json.Unmarshal([]byte(out), &s); err != nil || s.Current != s.Total || s.Total < 15 {
			return fmt.Errorf("%d of %d instances run it, want all and at least 15; reading the status: %v", s.Current,
				s.Total, err)
		}
		return nil
	})
	return cmp.Or(s.Revision.String(), "0")
}

// unset removes what a story published.
func unset(t testing.TB, p platform, name, app string) {
	t.Helper()
	must(t, p, "config", "unset", name, "--app", app, "--reason", "end of the story", "--wait", "20s")
}

// waitDeclared waits until config has the settings of web and of the gateway. Each process declares its settings when
// it is connected to config, which may be after the first page was served.
func waitDeclared(t testing.TB, p platform) {
	t.Helper()
	eventually(t, 30*time.Second, "config to have the settings of web and gateway", func(context.Context) error {
		for _, name := range []string{"web.home.row", "gateway.routes"} {
			if code, out := bijou(t, p, "config", "list", name); code != 0 || !strings.Contains(out, name) {
				return fmt.Errorf("listing %s: exit %d: %s", name, code, out)
			}
		}
		return nil
	})
}

func storySettingPropagates(t *testing.T, p platform) {
	waitForHome(t, p)
	waitDeclared(t, p)
	out := must(t, p, "config", "set", "web.home.row", "5", "--app", "web", "--reason", "a story", "--wait", "20s")
	if !strings.Contains(out, "revision") {
		t.Errorf("the output of config set has no revision: %s", out)
	}
	if v, layer, err := effective(t.Context(), p, "web-1", "web.home.row"); err != nil || v != "5" ||
		!strings.Contains(strings.ToLower(layer), "app") {
		t.Errorf("web has %q from layer %q, %v; want 5 from app", v, layer, err)
	}
	var h home
	if err := getJSON(t.Context(), edge(p)+"/api/home", &h); err != nil {
		t.Fatal(err)
	}
	if r := h.row("popular"); r == nil || len(r.Cards) != 5 {
		t.Errorf("the row of popular films is %+v, want 5 films", r)
	}
	at5 := revision(t, p)
	must(t, p, "config", "set", "web.home.row", "6", "--app", "web", "--reason", "another value", "--wait", "20s")
	must(t, p, "config", "rollback", at5, "--reason", "back to 5", "--wait", "20s")
	if v, _, err := effective(t.Context(), p, "web-1", "web.home.row"); err != nil || v != "5" {
		t.Errorf("after the rollback web has %q, %v; want 5", v, err)
	}
	unset(t, p, "web.home.row", "web")
	eventually(t, 10*time.Second, "the default to be in use again", func(ctx context.Context) error {
		v, _, err := effective(ctx, p, "web-1", "web.home.row")
		if err != nil || v != "12" {
			return fmt.Errorf("web has %q, %v", v, err)
		}
		return nil
	})
}

func storyBadSettingIsRefused(t *testing.T, p platform) {
	waitForHome(t, p)
	waitDeclared(t, p)
	before := must(t, p, "config", "history", "--json")
	for _, c := range []struct{ name, value, want string }{
		{"web.home.row", "many", "web.home.row"},
		{"web.home.row", "500", "24"},
		{"web.home.rwo", "5", "web.home.row"},
		{"gateway.routes", `[{"name":"x"}]`, "gateway.routes"},
	} {
		app := "web"
		if strings.HasPrefix(c.name, "gateway") {
			app = "gateway"
		}
		if code, out := bijou(t, p, "config", "set", c.name, c.value, "--app", app,
			"--reason", "a bad idea"); code == 0 || !strings.Contains(out, c.want) {
			t.Errorf("setting %s to %q: exit %d, want a refusal that names %q:\n%s", c.name, c.value, code, c.want, out)
		}
	}
	if after := must(t, p, "config", "history", "--json"); after != before {
		t.Errorf("the history has changed after refused publishes:\n%s", after)
	}
	waitForHome(t, p)
}

// storyCommandLineAnswers runs read commands as operators do, with and without --json. Each must print a text and end
// with the exit code that docs/cli.md promises.
func storyCommandLineAnswers(t *testing.T, p platform) {
	waitForHome(t, p)
	waitDeclared(t, p)
	web, err := registered(t.Context(), p, "web-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		exit int
		want string
		args []string
	}{
		{0, "UP", []string{"services", "catalog"}},
		{0, `"service": "web"`, []string{"services", "web", "--json"}},
		{3, `no instance of "unknown"`, []string{"services", "unknown"}},
		{0, "12\n", []string{"config", "get", "web.home.row"}}, // only web reads it
		{0, "12\n", []string{"config", "get", "web.home.row", "--app", "web"}},
		{0, `"value": "12"`, []string{"config", "get", "web.home.row", "--json"}},
		{0, "web.home.row", []string{"config", "get", "--instance", web}},
		{3, "has no value here", []string{"config", "get", "no.such.setting"}},
		{3, `no instance "unknown"`, []string{"config", "get", "--instance", "unknown"}},
		{0, "Films in a row", []string{"config", "list", "web.home.row"}},
		{3, "there is no such setting", []string{"config", "list", "no.such.setting"}},
		{0, "=>", []string{"config", "explain", "web.home.row"}},
		{3, "not declared", []string{"config", "explain", "no.such.setting"}},
		{0, "nothing was changed", []string{"config", "history", "no.such.setting"}},
		{0, "instances on revision", []string{"config", "status"}},
		{3, `no instance of "unknown"`, []string{"config", "status", "--app", "unknown"}},
		{4, "must be", []string{"config", "rollback", "999999", "--reason", "a story"}},
		{4, "must be", []string{"config", "diff", "999999"}},
		{0, "catalog.Shelves", []string{"circuits", "web"}},
		{0, `"circuits"`, []string{"circuits", "--json"}},
		{3, "not forced", []string{"circuits", "release", "unknown", "--reason", "a story"}},
		{0, "no circuit has the name", []string{"circuits", "open", "unknown", "--for", "10s", "--reason", "a story"}},
		{0, "", []string{"circuits", "release", "unknown", "--reason", "end of the story"}},
		{0, "gateway GET /api/home", []string{"trace", "-s", "gateway", "-n", "100"}},
		{3, "does not have it", []string{"trace", "0123456789abcdef"}},
	} {
		eventually(t, 20*time.Second, fmt.Sprintf("exit %d and %q of bijou %v", q.exit, q.want, q.args),
			func(context.Context) error {
				if code, out := bijou(t, p, q.args...); code != q.exit || !strings.Contains(out, q.want) {
					return fmt.Errorf("exit %d: %.1000s", code, out)
				}
				return nil
			})
	}
}

func storyTrafficIsSplitByWeight(t *testing.T, p platform) {
	waitForHome(t, p)
	waitDeclared(t, p)
	var before string
	eventually(t, 20*time.Second, "the routes in force", func(ctx context.Context) (err error) {
		before, _, err = effective(ctx, p, "gateway-1", "gateway.routes")
		return err
	})
	var routes []map[string]any
	if err := json.Unmarshal([]byte(before), &routes); err != nil {
		t.Fatalf("reading %s: %v", before, err)
	}
	routes = append(routes, map[string]any{
		"name": "split", "match": map[string]any{"prefix": "/split"}, "rewrite": map[string]any{"prefix": "/"},
		"to": []map[string]any{
			{"service": "hello", "version": "v1", "weight": 80},
			{"service": "hello", "version": "v2", "weight": 20},
		},
	})
	b, err := json.Marshal(routes)
	if err != nil {
		t.Fatal(err)
	}
	must(t, p, "config", "set", "gateway.routes", string(b), "--app", "gateway", "--reason", "20 % to v2",
		"--wait", "20s")
	defer unset(t, p, "gateway.routes", "gateway")
	// The count begins when requests reach both versions.
	eventually(t, 20*time.Second, "both versions", func(ctx context.Context) error {
		seen := map[string]bool{}
		for range 40 {
			v, err := version(ctx, p)
			if err != nil {
				return err
			}
			seen[v] = true
		}
		if !seen["v1"] || !seen["v2"] {
			return fmt.Errorf("of 40 requests all were answered by %v", slices.Collect(maps.Keys(seen)))
		}
		return nil
	})
	const n = 1000
	counts := map[string]int{}
	for range n {
		v, err := version(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		counts[v]++
	}
	share := float64(counts["v2"]) / n
	// Five standard deviations of the binomial distribution: one run in two million fails by chance.
	if limit := 5 * math.Sqrt(0.2*0.8/n); math.Abs(share-0.2) > limit || counts["v1"]+counts["v2"] != n {
		t.Errorf("v2 answered %.1f %% of the requests (%v), want 20 %% +- %.1f %%", 100*share, counts, 100*limit)
	}
}

// version sends a request through the route "split" and returns the version of hello that answered.
func version(ctx context.Context, p platform) (string, error) {
	a, err := get(ctx, edge(p)+"/split/version")
	if err != nil {
		return "", err
	}
	if a.status != 200 {
		return "", fmt.Errorf("%d %.300s", a.status, a.body)
	}
	return strings.TrimSpace(a.body), nil
}

func storyInstanceIsKilled(t *testing.T, p platform) {
	url := waitForHome(t, p)
	l := startLoad(t, p, url, edge(p)+"/", edge(p)+"/browse")
	l.during(t, 2)
	p.hold(t, "catalog-a-1")
	// Until the lease ends, config cannot distinguish a stopped instance from a disconnected one, so it must be counted
	// among those that may run old settings.
	eventually(t, 6*time.Second, "config status to show catalog-a-1 as cut off", func(context.Context) error {
		if _, out := bijou(t, p, "config", "status", "--app", "catalog"); !strings.Contains(out, "cut off") {
			return fmt.Errorf("config status prints %s", out)
		}
		return nil
	})
	l.during(t, 4)
	p.start(t, "catalog-a-1")
	l.during(t, 2)
	l.finish(t)
	waitForHome(t, p)
}

func storyInstancesRestart(t *testing.T, p platform) {
	url := waitForHome(t, p)
	l := startLoad(t, p, url, edge(p)+"/browse")
	l.during(t, 1)
	for _, instance := range []string{"catalog-a-2", "recommendations-a-1", "config-1", "discovery-1"} {
		p.restart(t, instance)
		l.during(t, 2)
	}
	l.finish(t)
	waitForHome(t, p)
}

func storyRecommendationsAreDown(t *testing.T, p platform) {
	url := waitForHome(t, p)
	p.hold(t, "recommendations-a-1")
	p.hold(t, "recommendations-b-1")
	restore := sync.OnceFunc(func() {
		p.start(t, "recommendations-a-1")
		p.start(t, "recommendations-b-1")
	})
	defer restore()
	// The circuit opens only with traffic, so send some. Every response must be good.
	eventually(t, 60*time.Second, "the circuit of recommendations to open", func(ctx context.Context) error {
		for range 5 {
			var h home
			if err := getJSON(ctx, url, &h); err != nil {
				t.Errorf("the home page while recommendations is down: %v", err)
				return nil
			}
		}
		state, err := circuit(ctx, p, "recommendations.Recommend")
		if err != nil || state != "open" {
			return fmt.Errorf("its state is %q, error %v", state, err)
		}
		return nil
	})
	var h home
	if err := getJSON(t.Context(), url, &h); err != nil {
		t.Fatal(err)
	}
	if r := h.row("recommended"); r == nil || r.Note == "" || len(r.Cards) == 0 ||
		!slices.Contains(h.Degraded, "recommendations") {
		t.Errorf("while recommendations is down the home page has the row %+v, degraded %v; want popular films with "+
			"a note",
			r, h.Degraded)
	}
	restore()
	eventually(t, 60*time.Second, "the circuit to close", func(ctx context.Context) error {
		var h home
		if err := getJSON(ctx, url, &h); err != nil {
			return err
		}
		state, err := circuit(ctx, p, "recommendations.Recommend")
		if err != nil || state != "closed" || len(h.Degraded) > 0 {
			return fmt.Errorf("its state is %q, error %v, fallbacks on the home page: %v", state, err, h.Degraded)
		}
		return nil
	})
}

// circuit returns the state of one of web's circuits, from its admin page.
func circuit(ctx context.Context, p platform, name string) (string, error) {
	a, err := get(ctx, "http://"+p.addr("web-1", 9090)+"/circuits")
	if err != nil {
		return "", err
	}
	var page struct {
		Circuits []struct{ Name, State string }
	}
	if err := json.Unmarshal([]byte(a.body), &page); err != nil {
		return "", fmt.Errorf("reading %.200s: %w", a.body, err)
	}
	for _, c := range page.Circuits {
		if c.Name == name {
			return strings.ToLower(strings.TrimPrefix(c.State, "STATE_")), nil
		}
	}
	return "", fmt.Errorf("web has no circuit %s", name)
}

func storyEtcdIsDown(t *testing.T, p platform) {
	url := waitForHome(t, p)
	waitDeclared(t, p)
	must(t, p, "config", "set", "web.home.row", "6", "--app", "web", "--reason", "before etcd is killed",
		"--wait", "20s")
	l := startLoad(t, p, url, edge(p)+"/browse")
	l.during(t, 1)
	p.hold(t, "etcd-1")
	l.during(t, 3)
	if code, out := bijou(t, p, "config", "set", "web.home.row", "7", "--app", "web",
		"--reason", "while etcd is down"); code == 0 {
		t.Errorf("a publish succeeded while etcd was down:\n%s", out)
	}
	l.during(t, 2)
	p.start(t, "etcd-1")
	l.during(t, 2)
	l.finish(t)
	eventually(t, 30*time.Second, "publishing to work again", func(context.Context) error {
		if code, out := bijou(t, p, "config", "set", "web.home.row", "8", "--app", "web",
			"--reason", "after etcd is up", "--wait", "10s"); code != 0 {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
	history := must(t, p, "config", "history", "--json")
	for _, want := range []string{"before etcd is killed", "after etcd is up"} {
		if !strings.Contains(history, want) {
			t.Errorf("the acknowledged publish %q is not in the history:\n%s", want, history)
		}
	}
	// One replica of config may reconnect to etcd later than the other.
	eventually(t, 30*time.Second, "every replica to publish again", func(context.Context) error {
		if code, out := bijou(t, p, "config", "unset", "web.home.row", "--app", "web", "--reason", "end of the story",
			"--wait", "20s"); code != 0 {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
	waitForHome(t, p)
}

// seeds is the number of random start orders to try.
const seeds = 20

func TestStartsInAnyOrderInProcess(t *testing.T) {
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel() // most of the time is waiting: for leases, and for a clean stop
			waitForHome(t, startInProcess(t, mathrand.New(mathrand.NewPCG(uint64(seed), 0))))
		})
	}
}

func TestStartsInAnyOrderAsProcesses(t *testing.T) {
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel() // most of the time is waiting: for leases, and for a clean stop
			waitForHome(t, startProcesses(t, stack.Options{Shuffle: mathrand.New(mathrand.NewPCG(uint64(seed), 0))}))
		})
	}
}
