package cli_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/internal/cli"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
)

// values answers a Get with values and keeps the request.
func values(asked **configv1.GetRequest, values ...*configv1.Value) func(*configv1.GetRequest) (*configv1.GetResponse,
	error,
) {
	return func(q *configv1.GetRequest) (*configv1.GetResponse, error) {
		*asked = q
		return &configv1.GetResponse{Values: values}, nil
	}
}

func TestGetOfASettingWithoutValueIsNotFound(t *testing.T) {
	var asked *configv1.GetRequest
	p := (&platform{get: values(&asked), listed: &configv1.ListResponse{}}).start(t)
	for _, flags := range [][]string{nil, {"--json"}, {"--app", "web"}} {
		p.expect(t, cli.ExitNotFound, "web.x has no value here; `bijou config list web.x` lists the services that read it",
			append([]string{"config", "get", "web.x"}, flags...)...)
	}
}

func TestGetIsForTheOnlyServiceThatReadsTheSetting(t *testing.T) {
	for name, test := range map[string]struct {
		apps []string
		want string
	}{
		"one reader":  {[]string{"web"}, "web"},
		"two readers": {[]string{"search", "web"}, ""},
		"no reader":   {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var asked *configv1.GetRequest
			p := (&platform{
				get: values(&asked, &configv1.Value{Name: "web.x", Value: "4"}),
				listed: &configv1.ListResponse{Properties: []*configv1.ListedProperty{
					{Property: &configv1.Property{Name: "web.xy"}, Apps: []string{"other"}},
					{Property: &configv1.Property{Name: "web.x"}, Apps: test.apps},
				}},
			}).start(t)
			if out := p.expect(t, cli.ExitOK, "", "config", "get", "web.x"); out != "4\n" {
				t.Errorf("it prints %q, want the value", out)
			}
			if got := asked.GetIdentity().GetApp(); got != test.want {
				t.Errorf("the value is asked for app %q, want %q", got, test.want)
			}
		})
	}
}

func TestGetOfAnInstanceUsesWhatTheRegistryKnowsOfIt(t *testing.T) {
	var asked *configv1.GetRequest
	p := (&platform{
		get: values(&asked, &configv1.Value{
			Name: "web.x", Value: "4", Layer: configv1.Layer_LAYER_ZONE, Revision: 7,
			Scope: &configv1.Scope{Layer: configv1.Layer_LAYER_ZONE, App: "web", Selector: "a"},
		}),
		instances: []*discoveryv1.Instance{{
			Service: "web", Id: "web-1", Environment: "test", Region: "eu", Zone: "a", Version: "2",
		}},
	}).start(t)
	out := p.expect(t, cli.ExitOK, "", "config", "get", "--instance", "web-1", "--zone", "b")
	want := &configv1.Identity{
		App: "web", Instance: "web-1", Environment: "test", Region: "eu", Zone: "b", Version: "2",
	}
	if diff := cmp.Diff(want, asked.GetIdentity(), protocmp.Transform()); diff != "" {
		t.Errorf("the identity that is asked for (-want +got):\n%s", diff)
	}
	wantRows := [][]string{{"SETTING", "VALUE", "LAYER", "REVISION"}, {"web.x", "4", "zone=a", "web", "7"}}
	if diff := cmp.Diff(wantRows, rows(out)); diff != "" {
		t.Errorf("all settings of the instance (-want +got):\n%s", diff)
	}
	p.expect(t, cli.ExitNotFound, `the registry has no instance "web-9"`, "config", "get", "--instance", "web-9")
	p.expect(t, cli.ExitNotFound, `the registry has no instance "web-1"`, "config", "get", "--instance", "web-1",
		"--app", "config")
}

func TestFlagsOfSetNameTheLayer(t *testing.T) {
	for flags, want := range map[string]*configv1.Scope{
		"":                           {Layer: configv1.Layer_LAYER_APP},
		"--app web":                  {Layer: configv1.Layer_LAYER_APP, App: "web"},
		"--environment test":         {Layer: configv1.Layer_LAYER_ENVIRONMENT, Selector: "test"},
		"--region eu --app web":      {Layer: configv1.Layer_LAYER_REGION, App: "web", Selector: "eu"},
		"--zone a":                   {Layer: configv1.Layer_LAYER_ZONE, Selector: "a"},
		"--version 2 --app web":      {Layer: configv1.Layer_LAYER_VERSION, App: "web", Selector: "2"},
		"--instance web-1 --app web": {Layer: configv1.Layer_LAYER_INSTANCE, App: "web", Selector: "web-1"},
		"--override":                 {Layer: configv1.Layer_LAYER_OVERRIDE},
		"--override --app web":       {Layer: configv1.Layer_LAYER_OVERRIDE, App: "web"},
	} {
		t.Run(flags, func(t *testing.T) {
			for command, change := range map[string]*configv1.Change{
				"set":   {Name: "web.x", Scope: want, Value: "4"},
				"unset": {Name: "web.x", Scope: want, Remove: true},
			} {
				var asked *configv1.PublishRequest
				p := (&platform{publish: func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
					asked = q
					return &configv1.PublishResponse{}, nil
				}}).start(t)
				args := []string{"config", command, "web.x"}
				if command == "set" {
					args = append(args, "4")
				}
				args = append(args, strings.Fields(flags)...)
				p.expect(t, cli.ExitOK, "", append(args, "--reason", "a test", "--expected", "3", "--wait", "0s")...)
				wantRequest := &configv1.PublishRequest{
					Changes: []*configv1.Change{change}, ExpectedRevision: 3, Author: "ann", Reason: "a test",
				}
				if diff := cmp.Diff(wantRequest, asked, protocmp.Transform()); diff != "" {
					t.Errorf("config %s sends (-want +got):\n%s", command, diff)
				}
			}
		})
	}
}

func TestAnOverrideEndsAfterItsTTL(t *testing.T) {
	var asked *configv1.PublishRequest
	p := (&platform{publish: func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
		asked = q
		return &configv1.PublishResponse{}, nil
	}}).start(t)
	p.expect(t, cli.ExitOK, "", "config", "set", "web.x", "4", "--override", "--ttl", "10m", "--reason", "a test",
		"--wait", "0s", "--author", "Zoë")
	if got := asked.GetChanges()[0].GetTtl(); !proto.Equal(got, durationpb.New(10*time.Minute)) {
		t.Errorf("the change ends after %v, want 10 minutes", got.AsDuration())
	}
	if asked.GetAuthor() != "Zoë" {
		t.Errorf("the author is %q, want the one of --author", asked.GetAuthor())
	}
}

func TestADryRunNeedsNoReasonAndWaitsForNoInstance(t *testing.T) {
	refuse := func(*configv1.RollbackRequest) (*configv1.PublishResponse, error) {
		return nil, errs.ToStatus(t.Context(), errs.Errorf(errs.NotFound, "revision 99 does not exist")).Err()
	}
	var asked *configv1.PublishRequest
	p := (&platform{
		publish: func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
			asked = q
			return &configv1.PublishResponse{Revision: 5, Applied: []*configv1.AppliedChange{
				{Name: "web.x", Before: proto.String("3"), After: proto.String("4"), Scope: &configv1.Scope{
					Layer: configv1.Layer_LAYER_APP, App: "web",
				}},
			}}, nil
		},
		rollback: refuse, // without status: a command that waits for instances fails
	}).start(t)
	out := p.expect(t, cli.ExitOK, "", "config", "set", "web.x", "4", "--dry-run")
	if want := "would be published\n  web.x [app web]: 3 -> 4\n"; out != want {
		t.Errorf("it prints %q, want %q", out, want)
	}
	if !asked.GetDryRun() || asked.GetReason() == "" {
		t.Errorf("the request is %v, want a dry run with a reason, which config requires", asked)
	}
	p.expect(t, cli.ExitNotFound, "revision 99 does not exist", "config", "rollback", "99", "--dry-run")
}

func TestRollback(t *testing.T) {
	var asked *configv1.RollbackRequest
	p := (&platform{
		rollback: func(q *configv1.RollbackRequest) (*configv1.PublishResponse, error) {
			asked = q
			return &configv1.PublishResponse{Revision: 19}, nil
		},
		status: &configv1.StatusResponse{Revision: 19, Current: 2, Total: 2},
	}).start(t)
	out := p.expect(t, cli.ExitOK, "2 of 2 instances on revision 19\n", "config", "rollback", "17", "--reason", "a test",
		"--expected", "18")
	if want := "revision 19: nothing to change, the value is there already\n"; out != want {
		t.Errorf("it prints %q, want %q", out, want)
	}
	want := &configv1.RollbackRequest{To: 17, ExpectedRevision: 18, Author: "ann", Reason: "a test"}
	if diff := cmp.Diff(want, asked, protocmp.Transform()); diff != "" {
		t.Errorf("the request (-want +got):\n%s", diff)
	}
}

func TestExitCodesOfARollback(t *testing.T) {
	for kind, want := range map[errs.Kind]int{
		errs.Invalid: cli.ExitRefused, errs.Exists: cli.ExitRefused, errs.Conflict: cli.ExitRefused,
		errs.Precondition: cli.ExitRefused, errs.Unauthenticated: cli.ExitRefused, errs.Denied: cli.ExitRefused,
		errs.Exhausted: cli.ExitRefused, errs.NotFound: cli.ExitNotFound, errs.Unavailable: cli.ExitUnreachable,
		errs.Timeout: cli.ExitFailed, errs.Canceled: cli.ExitFailed, errs.Internal: cli.ExitFailed,
		errs.Unimplemented: cli.ExitFailed,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			p := (&platform{rollback: func(*configv1.RollbackRequest) (*configv1.PublishResponse, error) {
				return nil, errs.ToStatus(t.Context(), errs.Errorf(kind, "rolling back to 17: the reason")).Err()
			}}).start(t)
			p.expect(t, want, "bijou: ", "config", "rollback", "17", "--reason", "a test")
		})
	}
}

// A change that was published is never reported with the exit code for "refused, nothing changed".
func TestAPublishedChangeWhoseStatusIsUnknownHasFailedInPart(t *testing.T) {
	p := (&platform{publish: answer[*configv1.PublishRequest](&configv1.PublishResponse{Revision: 5})}).start(t)
	for _, kind := range []errs.Kind{errs.Unavailable, errs.Invalid, errs.NotFound} {
		p.statusError = errs.ToStatus(t.Context(), errs.Errorf(kind, "the reason")).Err()
		out := p.expect(t, cli.ExitFailed, "revision 5 is published, but", "config", "set", "web.x", "4",
			"--reason", "a test")
		if !strings.HasPrefix(out, "revision 5") {
			t.Errorf("%v: it prints %q, want the revision", kind, out)
		}
	}
}

func TestHistoryAndDiffSayWhenNothingChanged(t *testing.T) {
	p := (&platform{history: &configv1.HistoryResponse{}, diff: &configv1.DiffResponse{From: 3, To: 5}}).start(t)
	p.expect(t, cli.ExitOK, "nothing was changed\n", "config", "history")
	p.expect(t, cli.ExitOK, "revisions 3 and 5 have the same values\n", "config", "diff", "3")
}

func TestDiffCutsLongValuesAndKeepsUnicode(t *testing.T) {
	p := (&platform{diff: &configv1.DiffResponse{From: 3, To: 5, Changes: []*configv1.AppliedChange{
		{Name: "web.titel", Before: proto.String("Größe"), After: proto.String("映画"), Scope: &configv1.Scope{
			Layer: configv1.Layer_LAYER_INSTANCE, Selector: "web-1",
		}},
		{Name: "web.long", After: proto.String(strings.Repeat("ö", 70_000)), Scope: &configv1.Scope{
			Layer: configv1.Layer_LAYER_OVERRIDE,
		}},
	}}}).start(t)
	out := p.expect(t, cli.ExitOK, "", "config", "diff", "3", "5")
	want := "  web.titel [instance=web-1]: Größe -> 映画\n" +
		"  web.long [override]: (none) -> " + strings.Repeat("ö", 119) + "…\n"
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("config diff (-want +got):\n%s", diff)
	}
}

func TestExplainMarksTheLayerThatWins(t *testing.T) {
	var asked *configv1.ExplainRequest
	p := (&platform{explain: func(q *configv1.ExplainRequest) (*configv1.ExplainResponse, error) {
		asked = q
		return &configv1.ExplainResponse{
			Property: &configv1.Property{
				Name: "web.home.row", Type: configv1.Type_TYPE_INT, Unit: "films", Min: "1", Max: "20", Doc: "Films in a row.",
			},
			Candidates: []*configv1.Candidate{
				{
					Value: &configv1.Value{
						Value: "4", Layer: configv1.Layer_LAYER_APP, Revision: 7, Scope: &configv1.Scope{App: "web"},
					},
					Author: "ann", Reason: forged, Wins: true,
				},
				{Value: &configv1.Value{Value: "6", Layer: configv1.Layer_LAYER_DEFAULT}},
			},
		}, nil
	}}).start(t)
	out := p.expect(t, cli.ExitOK, "", "config", "explain", "web.home.row", "--app", "web")
	if !strings.HasPrefix(out, "web.home.row  int films 1..20\nFilms in a row.\n\n") {
		t.Errorf("it prints\n%s\nwant the declaration first", out)
	}
	var marked []string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "=>") {
			marked = strings.Fields(line)
		}
	}
	want := strings.Fields(`=> 4 app web 7 ann ann\x1b[1A\x1b[2K\nrevision 9 forged`)
	if diff := cmp.Diff(want, marked); diff != "" {
		t.Errorf("the line of the layer that wins (-want +got):\n%s", diff)
	}
	if asked.GetName() != "web.home.row" || asked.GetIdentity().GetApp() != "web" {
		t.Errorf("the request is %v", asked)
	}
}

func TestListShowsDeclarationsAndValues(t *testing.T) {
	p := (&platform{listed: &configv1.ListResponse{Properties: []*configv1.ListedProperty{{
		Property: &configv1.Property{
			Name: "web.colour", Type: configv1.Type_TYPE_STRING, DefaultValue: "red", Options: []string{"red", "blue"},
			Doc: "Of the page.",
		},
		Apps: []string{"web", "search"},
		Values: []*configv1.Value{{
			Value: "blue", Layer: configv1.Layer_LAYER_ZONE, Scope: &configv1.Scope{Selector: "a"},
		}},
	}}}}).start(t)
	out := p.expect(t, cli.ExitOK, "", "config", "list")
	want := [][]string{
		{"SETTING", "TYPE", "DEFAULT", "VALUES", "APPS", "ABOUT"},
		{"web.colour", "string", "red|blue", "red", "blue", "[zone=a]", "web", "search", "Of", "the", "page."},
	}
	if diff := cmp.Diff(want, rows(out)); diff != "" {
		t.Errorf("config list (-want +got):\n%s", diff)
	}
	p.listed = &configv1.ListResponse{}
	p.expect(t, cli.ExitNotFound, "there is no such setting; `bijou config list` lists all", "config", "list", "web.")
	p.expect(t, cli.ExitNotFound, "there is no such setting", "config", "list", "--app", "web")
	p.expect(t, cli.ExitOK, "", "config", "list")
}

func TestConfigStatus(t *testing.T) {
	web := func(n int) *configv1.Identity {
		return &configv1.Identity{App: "web", Instance: fmt.Sprint("web-", n)}
	}
	p := (&platform{status: &configv1.StatusResponse{
		Revision: 9, Current: 1, Total: 4, Unreachable: []string{"config-2"}, RegistryProblem: "it does not answer",
		Instances: []*configv1.InstanceStatus{
			{Identity: web(1), Revision: 9},
			{Identity: web(2), Revision: 8},
			{Identity: web(3), CutOff: true},
			{Identity: web(4), Revision: 9, Rejections: []*configv1.Rejection{
				{Name: "web.x", Revision: 9, Problem: "must be a number"},
			}},
		},
	}}).start(t)
	out := p.expect(t, cli.ExitFailed, "not every instance runs revision 9: web/web-2 is on revision 8; "+
		"web/web-3 is cut off from config; web/web-4 refused web.x and keeps the old value: must be a number\n",
		"config", "status")
	want := [][]string{
		{"SERVICE", "INSTANCE", "REVISION", "ACKNOWLEDGED", "REFUSED"},
		{"web", "web-1", "9"},
		{"web", "web-2", "8"},
		{"web", "web-3", "0", "cut", "off"},
		{"web", "web-4", "9", "web.x@9:", "must", "be", "a", "number"},
		strings.Fields("1 of 4 instances on revision 9; config-2 did not answer, so the instances connected there count " +
			"as cut off; the registry gives no list of instances: it does not answer"),
	}
	if diff := cmp.Diff(want, rows(out)); diff != "" {
		t.Errorf("config status (-want +got):\n%s", diff)
	}
	if out := p.expect(t, cli.ExitFailed, "not every instance runs revision 9", "config", "status", "--json"); !strings.
		Contains(out, `"problem": "must be a number"`) {
		t.Errorf("with --json it prints\n%s\nwant the answer of config", out)
	}
	p.status = &configv1.StatusResponse{Revision: 9}
	p.expect(t, cli.ExitNotFound, `no instance of "web" is connected to config or registered`, "config", "status", "--app",
		"web")
	p.expect(t, cli.ExitOK, "", "config", "status")
}

func TestTheUserIsTheAuthor(t *testing.T) {
	var asked *configv1.PublishRequest
	p := (&platform{publish: func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
		asked = q
		return &configv1.PublishResponse{}, nil
	}}).start(t)
	for environ, want := range map[string]string{"USER=ann": "ann", "USER=": "bijou", "OTHER=ann": "bijou"} {
		args := []string{"--discovery", p.addr, "config", "unset", "web.x", "--reason", "a test", "--wait", "0s"}
		if _, problem, code := runCommand(t, []string{environ}, args...); code != cli.ExitOK {
			t.Errorf("%s: exit code %d: %s", environ, code, problem)
		}
		if got := asked.GetAuthor(); got != want {
			t.Errorf("with the variable %q the author is %q, want %q", environ, got, want)
		}
	}
}
