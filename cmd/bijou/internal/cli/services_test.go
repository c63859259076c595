package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"bijou.dev/cmd/bijou/internal/cli"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

func TestServicesWarnsWhenTheListMayBeOld(t *testing.T) {
	p := (&platform{registry: &discoveryv1.ListResponse{
		SelfPreservation: &discoveryv1.SelfPreservation{Active: true, Reason: "half of the heartbeats are missing"},
		StoreProblem:     "etcd does not answer",
	}}).start(t)
	for _, warning := range []string{
		"no instance is evicted at the moment: half of the heartbeats are missing\n",
		"the registry works from memory: etcd does not answer\n",
	} {
		out := p.expect(t, cli.ExitOK, warning, "services", "config")
		want := []string{"config", "config-1", "UP", "a", "1"}
		if got := rows(out); len(got) != 2 || !cmp.Equal(got[1][:5], want) {
			t.Errorf("it prints\n%s\nwant one line with %v", out, want)
		}
	}
}

func TestServicesAsJSONIsTheAnswerOfTheRegistry(t *testing.T) {
	p := (&platform{}).start(t)
	var got struct {
		Instances []struct{ ID, Status string }
	}
	if err := json.Unmarshal([]byte(p.expect(t, cli.ExitOK, "", "services", "config", "--json")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Instances) != 1 || got.Instances[0].ID != "config-1" || got.Instances[0].Status != "STATUS_UP" {
		t.Errorf("the instances are %+v, want config-1 with STATUS_UP", got.Instances)
	}
}

func TestOutAndBack(t *testing.T) {
	var asked *discoveryv1.SetOverrideRequest
	p := (&platform{override: func(q *discoveryv1.SetOverrideRequest) (*discoveryv1.SetOverrideResponse, error) {
		asked = q
		return &discoveryv1.SetOverrideResponse{Instance: &discoveryv1.Instance{
			Id: q.GetId(), Status: discoveryv1.Status_STATUS_OUT_OF_SERVICE, OverrideReason: q.GetReason(),
		}}, nil
	}}).start(t)
	for command, status := range map[string]discoveryv1.Status{
		"out": discoveryv1.Status_STATUS_OUT_OF_SERVICE, "back": discoveryv1.Status_STATUS_UNSPECIFIED,
	} {
		out := p.expect(t, cli.ExitOK, "", "services", command, "config-1", "--reason", "disk", "--author", "bob")
		want := &discoveryv1.SetOverrideRequest{
			Service: "config", Id: "config-1", Status: status, Author: "bob", Reason: "disk",
		}
		if diff := cmp.Diff(want, asked, protocmp.Transform()); diff != "" {
			t.Errorf("services %s sends (-want +got):\n%s", command, diff)
		}
		if out != "config-1 is OUT_OF_SERVICE (disk)\n" {
			t.Errorf("services %s prints %q", command, out)
		}
		p.expect(t, cli.ExitNotFound, `the registry has no instance "config-9"`, "services", command, "config-9",
			"--reason", "disk")
		p.expect(t, cli.ExitUsage, "--reason is missing", "services", command, "config-1", "--reason", " ")
	}
	p.override = func(*discoveryv1.SetOverrideRequest) (*discoveryv1.SetOverrideResponse, error) {
		return nil, errs.ToStatus(t.Context(), errs.Errorf(errs.Precondition, "taking it out: it is the last one")).Err()
	}
	p.expect(t, cli.ExitRefused, "taking it out: it is the last one", "services", "out", "config-1", "--reason", "disk")
}

// serveAdmin is the admin port of an instance whose disk is full.
func serveAdmin(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/readyz":
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"status":"not ready","checks":[{"name":"store","ok":false,"needed":true,"reason":"disk full\u001b[2J"},`+
			`{"name":"settings","ok":true,"needed":false}]}`)
	case "/metrics":
		fmt.Fprint(w, "# HELP go_goroutines x\ngo_goroutines 42\nbijou_config_revision 7\nother 1\n")
	default:
		http.NotFound(w, r)
	}
}

func TestShowPrintsTheReportOfAnInstance(t *testing.T) {
	p := (&platform{admin: serveAdmin}).start(t)
	out := p.expect(t, cli.ExitOK, "", "services", "show", "config-1")
	got := rows(out)
	want := [][]string{
		{"settings", "revision:", "7"},
		{"memory", "in", "bytes:"},
		{"goroutines:", "42"},
		{"CHECK", "STATE", "NEEDED", "REASON"},
		{"store", "not", "good", "yes", "disk", `full\x1b[2J`},
		{"settings", "good", "no"},
	}
	if diff := cmp.Diff(want, got[1:]); diff != "" {
		t.Errorf("services show (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(out, "config-1 is UP, zone a, version 1, up for ") {
		t.Errorf("it begins with %q", strings.Join(got[0], " "))
	}
	var shown struct {
		ID      string
		Ready   bool
		Figures map[string]string
	}
	out = p.expect(t, cli.ExitOK, "", "services", "show", "config-1", "--json")
	if err := json.Unmarshal([]byte(out), &shown); err != nil {
		t.Fatal(err)
	}
	if shown.ID != "config-1" || shown.Ready || shown.Figures["goroutines"] != "42" {
		t.Errorf("with --json it prints %+v, want config-1, not ready, with 42 goroutines", shown)
	}
}

func TestShowOfAnInstanceThatDoesNotReport(t *testing.T) {
	p := (&platform{
		admin: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		instances: []*discoveryv1.Instance{
			{Service: "web", Id: "web-1"},
			{Service: "web", Id: "web-2", Endpoints: map[string]string{"admin": "127.0.0.1:1"}},
		},
	}).start(t)
	p.expect(t, cli.ExitFailed, "reading the readiness of config-1", "services", "show", "config-1")
	p.expect(t, cli.ExitRefused, "the instance has no admin page", "services", "show", "web-1")
	p.expect(t, cli.ExitUnreachable, "asking the admin page at 127.0.0.1:1", "services", "show", "web-2")
	p.expect(t, cli.ExitNotFound, `the registry has no instance "web-3"`, "services", "show", "web-3")
}

func TestServicesKill(t *testing.T) {
	var body string
	p := (&platform{admin: func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		body = r.Method + " " + r.URL.Path + " " + string(text)
		w.WriteHeader(http.StatusAccepted)
	}}).start(t)
	for flags, want := range map[string]string{
		"":                       `POST /kill {"author":"ann","reason":"a test"}`,
		"--for 20s --author bob": `POST /kill {"author":"bob","for":"20s","reason":"a test"}`,
	} {
		args := append([]string{"services", "kill", "config-1", "--reason", "a test"}, strings.Fields(flags)...)
		if out := p.expect(t, cli.ExitOK, "", args...); out != "killed config-1\n" || body != want {
			t.Errorf("with %q it prints %q and sends %s, want %s", flags, out, body, want)
		}
	}
}

func TestServicesKillSaysWhyItWasNotDone(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		code   int
		want   string
	}{
		"not allowed": {http.NotFound, cli.ExitRefused, "killing config-1: it does not allow it; it must run with -allow-kill"},
		"bad request": {
			func(w http.ResponseWriter, r *http.Request) {
				errs.WriteProblem(w, r, errs.Errorf(errs.Invalid, "killing config-1").Field("for", "must be at most 2m0s"))
			},
			cli.ExitRefused, "bijou: killing config-1: for must be at most 2m0s\n",
		},
		"denied": {
			func(w http.ResponseWriter, r *http.Request) {
				errs.WriteProblem(w, r, errs.Errorf(errs.Denied, "killing config-1: not from a browser"))
			},
			cli.ExitRefused, "bijou: killing config-1: not from a browser\n",
		},
		"failure": {
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
			cli.ExitFailed, "bijou: killing config-1: 500 Internal Server Error\n",
		},
		"overloaded": {
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
			cli.ExitUnreachable, "bijou: killing config-1: 503 Service Unavailable\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := (&platform{admin: test.answer}).start(t)
			if out := p.expect(t, test.code, test.want, "services", "kill", "config-1", "--reason", "a test"); out != "" {
				t.Errorf("it prints %q, want nothing", out)
			}
		})
	}
	p := (&platform{}).start(t)
	p.expect(t, cli.ExitUsage, "--reason is missing", "services", "kill", "config-1")
	p.expect(t, cli.ExitNotFound, `the registry has no instance "config-9"`, "services", "kill", "config-9", "--reason", "x")
}

func TestOnlyInstancesThatAreUpAreAsked(t *testing.T) {
	p := (&platform{}).start(t)
	for _, i := range p.instances {
		i.Status = discoveryv1.Status_STATUS_DRAINING
	}
	for service, args := range map[string][]string{
		"config": {"config", "history"}, "circuits": {"circuits"}, "tracing": {"trace"}, "gateway": {"routes"},
	} {
		p.expect(t, cli.ExitUnreachable, "finding "+service+": no instance of it is up", args...)
	}
}

func TestTheRegistryIsAskedAtEachAddress(t *testing.T) {
	p := (&platform{}).start(t)
	for _, seeds := range []string{"127.0.0.1:1," + p.addr, p.addr + ",127.0.0.1:1", " " + p.addr} {
		out, problem, code := runCommand(t, []string{"BIJOU_DISCOVERY=" + seeds}, "services", "config")
		if code != cli.ExitOK || len(rows(out)) != 2 {
			t.Errorf("BIJOU_DISCOVERY=%q: exit code %d, it prints %q and %q", seeds, code, out, problem)
		}
	}
}
