package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// consoleFleet is the console's topic "fleet": all instances.
type consoleFleet struct {
	Instances []struct {
		Service, ID, Status, Override, OverrideReason, OverrideAuthor string

		Admin *struct {
			OK     bool
			Checks []struct{ Name string }
		}
	}
}

func (f consoleFleet) status(id string) (status string, answers bool) {
	for _, i := range f.Instances {
		if i.ID == id {
			return i.Status, i.Admin != nil && i.Admin.OK
		}
	}
	return "", false
}

// consoleTraffic is the console's topic "traffic": the calls between services.
type consoleTraffic struct{ Edges []consoleEdge }

type consoleEdge struct {
	From, To string
	Figures  struct{ CallsPerSecond float64 }
}

// storyConsole reads the state of the platform from the console's API, and changes it through that API.
func storyConsole(t *testing.T, p platform) {
	console := "http://" + p.addr("console", 8080)
	state := func(ctx context.Context, topic string, v any) error {
		return getJSON(ctx, console+"/api/state/"+topic, v)
	}
	home := waitForHome(t, p)

	eventually(t, 30*time.Second, "the console to reach all its back ends and to show the traffic",
		func(ctx context.Context) error {
			if _, err := get(ctx, home); err != nil {
				return err
			}
			var parts map[string]struct {
				OK      bool
				Problem string
			}
			if err := state(ctx, "parts", &parts); err != nil {
				return err
			}
			for _, name := range []string{"registry", "circuits", "settings", "edge"} {
				if !parts[name].OK {
					return fmt.Errorf("%s: %+v", name, parts[name])
				}
			}
			var traffic consoleTraffic
			if err := state(ctx, "traffic", &traffic); err != nil {
				return err
			}
			for _, want := range [][2]string{
				{"INTERNET", "gateway"},
				{"gateway", "web"},
				{"web", "catalog"},
				{"recommendations", "catalog"},
			} {
				if !slices.ContainsFunc(traffic.Edges, func(e consoleEdge) bool {
					return e.From == want[0] && e.To == want[1] && e.Figures.CallsPerSecond > 0
				}) {
					return fmt.Errorf("no calls from %s to %s in %+v", want[0], want[1], traffic.Edges)
				}
			}
			var fleet consoleFleet
			if err := state(ctx, "fleet", &fleet); err != nil {
				return err
			}
			for _, instance := range []string{"catalog-a-1", "gateway-1", "console-1", "hello-next-1"} {
				id, err := registered(ctx, p, instance)
				if err != nil {
					return err
				}
				if status, answers := fleet.status(id); status != "UP" || !answers {
					return fmt.Errorf("instance %s: status %q, admin page answers: %v; want UP and true", id, status,
						answers)
				}
			}
			var viz struct{ Nodes []struct{ Connections []any } }
			if err := getJSON(ctx, console+"/vizceral.json", &viz); err != nil {
				return err
			}
			if len(viz.Nodes) != 2 || len(viz.Nodes[1].Connections) == 0 {
				return fmt.Errorf("vizceral.json: %+v", viz)
			}
			return nil
		})

	t.Run("shows what the command line shows", func(t *testing.T) {
		catalog, err := registered(t.Context(), p, "catalog-a-1")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			args []string
			want string
		}{
			{[]string{"map"}, "recommendations"},
			{[]string{"routes"}, "hello v2"},
			{[]string{"trace", "--deps", "--since", "5m"}, "catalog"},
			{[]string{"services", "catalog"}, catalog},
			{[]string{"services", "show", catalog}, "settings revision: "},
			{[]string{"circuits"}, "catalog.GetTitles"},
			{[]string{"config", "list"}, "web.home.row"},
			{[]string{"config", "explain", "web.home.row", "--app", "web"}, "12"},
			{[]string{"config", "status"}, catalog},
			// a trace with a span of web has its root span at the edge
			{[]string{"trace", "-s", "web"}, "gateway GET /api/home"},
		} {
			eventually(t, 30*time.Second, fmt.Sprintf("bijou %v to show %q", c.args, c.want),
				func(context.Context) error {
					code, out := bijou(t, p, c.args...)
					if code != 0 || !strings.Contains(out, c.want) {
						return fmt.Errorf("exit code %d, output:\n%s", code, out)
					}
					return nil
				})
		}
		eventually(t, 30*time.Second, "a trace whose spans carry the reasons of the routing",
			func(ctx context.Context) error {
				var traces [][]struct{ TraceID string }
				if err := getJSON(ctx, console+"/api/traces/traces?serviceName=web&remoteServiceName=catalog&limit=1",
					&traces); err != nil || len(traces) == 0 {
					return fmt.Errorf("%d traces of web calling catalog (%w)", len(traces), err)
				}
				_, out := bijou(t, p, "trace", traces[0][0].TraceID, "--why")
				for _, want := range []string{
					"route.instance=catalog-", "circuit.name=catalog.", "circuit.state=closed",
					"attempts=1", "config.revision=",
				} {
					if !strings.Contains(out, want) {
						return fmt.Errorf("bijou trace --why has no %q:\n%s", want, out)
					}
				}
				return nil
			})
	})

	t.Run("takes an instance out and back", func(t *testing.T) {
		id, err := registered(t.Context(), p, "catalog-a-2")
		if err != nil {
			t.Fatal(err)
		}
		act(t, console, "discovery/SetOverride",
			`{"service":"catalog","id":"`+id+`","status":"STATUS_OUT_OF_SERVICE","author":"ann","reason":"disk"}`,
			http.StatusOK)
		eventually(t, 10*time.Second, "the instance to be out of service", func(ctx context.Context) error {
			var fleet consoleFleet
			if err := state(ctx, "fleet", &fleet); err != nil {
				return err
			}
			if status, _ := fleet.status(id); status != "OUT_OF_SERVICE" {
				return fmt.Errorf("the console shows instance %s as %q", id, status)
			}
			return nil
		})
		// The command line ends the override that the console has set.
		must(t, p, "services", "back", id, "--reason", "new disk")
		eventually(t, 10*time.Second, "the instance to be up", func(ctx context.Context) error {
			var fleet consoleFleet
			if err := state(ctx, "fleet", &fleet); err != nil {
				return err
			}
			if status, _ := fleet.status(id); status != "UP" {
				return fmt.Errorf("the console shows instance %s as %q", id, status)
			}
			return nil
		})
	})

	t.Run("publishes, refuses and explains settings", func(t *testing.T) {
		const change = `"changes":[{"name":"web.home.row","scope":{"layer":"LAYER_APP","app":"web"},"value":"%s"}],
			"author":"ann","reason":"fits my screen"`
		refused := act(t, console, "config/Publish", fmt.Sprintf(`{`+change+`}`, "many"), http.StatusBadRequest)
		if !strings.Contains(refused, "changes[0].value") {
			t.Errorf("the refusal does not name the field: %s", refused)
		}
		act(t, console, "config/Publish", fmt.Sprintf(`{"dryRun":true,`+change+`}`, "7"), http.StatusOK)
		if explained := act(t, console, "config/Explain", `{"name":"web.home.row","identity":{"app":"web"}}`,
			http.StatusOK); strings.Contains(explained, `"7"`) {
			t.Errorf("a dry run changed something: %s", explained)
		}
		var done struct{ Revision string }
		if err := json.Unmarshal([]byte(act(t, console, "config/Publish", fmt.Sprintf(`{`+change+`}`, "7"),
			http.StatusOK)), &done); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "all instances to run the revision", func(ctx context.Context) error {
			var s struct {
				Status struct {
					Revision       string
					Current, Total int
				}
				Newest struct{ Author, Reason string }
			}
			if err := state(ctx, "settings", &s); err != nil {
				return err
			}
			if s.Status.Revision != done.Revision || s.Status.Current != s.Status.Total || s.Newest.Author != "ann" {
				return fmt.Errorf("want all on %s, by ann: %+v", done.Revision, s)
			}
			return nil
		})
		act(t, console, "config/Publish", `{"changes":[{"name":"web.home.row",
			"scope":{"layer":"LAYER_APP","app":"web"},"remove":true}],"author":"ann","reason":"as it was"}`,
			http.StatusOK)
	})

	t.Run("forces a circuit and releases it", func(t *testing.T) {
		forced := func(want bool) func(context.Context) error {
			return func(ctx context.Context) error {
				var board struct {
					Services []struct {
						Service  string
						Circuits []struct{ Name, State string }
					}
				}
				if err := state(ctx, "circuits", &board); err != nil {
					return err
				}
				for _, s := range board.Services {
					for _, c := range s.Circuits {
						if s.Service == "web" && c.Name == "search.Search" && (c.State == "STATE_FORCED_OPEN") == want {
							return nil
						}
					}
				}
				_, err := get(ctx, edge(p)+"/api/search?q=star") // the circuit exists from its first call on
				return fmt.Errorf("circuit search.Search of web: want forced open = %v; the board has %+v "+
					"(searching: %w)",
					want, board, err)
			}
		}
		act(t, console, "circuits/Force", `{"service":"web","name":"search.Search","state":"STATE_FORCED_OPEN",
			"ttl":"60s","author":"ann","reason":"game day"}`, http.StatusOK)
		eventually(t, 20*time.Second, "the circuit to be forced open", forced(true))
		act(t, console, "circuits/Force", `{"service":"web","name":"search.Search","author":"ann","reason":"over"}`,
			http.StatusOK)
		eventually(t, 20*time.Second, "the circuit to be released", forced(false))
	})

	t.Run("shows a killed instance and its return", func(t *testing.T) {
		id, err := registered(t.Context(), p, "catalog-b-1")
		if err != nil {
			t.Fatal(err)
		}
		p.hold(t, "catalog-b-1")
		adminAnswers := func(want bool) func(context.Context) error {
			return func(ctx context.Context) error {
				var fleet consoleFleet
				if err := state(ctx, "fleet", &fleet); err != nil {
					return err
				}
				if _, answers := fleet.status(id); answers != want {
					return fmt.Errorf("admin page of %s answers: %v, want %v", id, answers, want)
				}
				return nil
			}
		}
		eventually(t, 10*time.Second, "the killed instance to be shown", adminAnswers(false))
		p.start(t, "catalog-b-1")
		eventually(t, 30*time.Second, "its return to be shown", adminAnswers(true))
	})

	t.Run("sends requests through the edge and finds traces", func(t *testing.T) {
		if got := act(t, console, "requests", `{"path":"/hello","count":20,"author":"ann","reason":"see the split"}`,
			http.StatusOK); !strings.Contains(got, `"v1": 20`) {
			t.Errorf("20 requests to /hello through the console: got %s, want 20 answers of v1", got)
		}
		eventually(t, 20*time.Second, "the traces of the edge", func(ctx context.Context) error {
			var traces [][]struct{ TraceID string }
			if err := getJSON(ctx, console+"/api/traces/traces?serviceName=gateway&limit=5", &traces); err != nil {
				return err
			}
			if len(traces) == 0 {
				return fmt.Errorf("no traces")
			}
			return getJSON(ctx, console+"/api/traces/trace/"+traces[0][0].TraceID, new(any))
		})
	})
}

// act posts to the console's API and returns the answer.
func act(t *testing.T, console, method, body string, want int) string {
	t.Helper()
	var got answer
	eventually(t, 20*time.Second, "the console to answer "+method, func(ctx context.Context) error {
		var err error
		if got, err = post(ctx, console+"/api/"+method, body); err == nil &&
			got.status == http.StatusServiceUnavailable {
			err = fmt.Errorf("%s: %s", method, got.body) // the service behind the console was down for a moment
		}
		return err
	})
	if got.status != want {
		t.Fatalf("POST %s %s: %d %s, want %d", method, body, got.status, got.body, want)
	}
	return got.body
}
