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
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const forged = "ann\x1b[1A\x1b[2K\nrevision 9  forged"

func TestHistoryCannotBeForged(t *testing.T) {
	p := (&platform{history: &configv1.HistoryResponse{Revisions: []*configv1.Revision{{
		Revision: 7, Author: forged, Reason: "because\r\nrevision 8", Time: timestamppb.New(time.Unix(0, 0)),
		Changes: []*configv1.AppliedChange{{Name: "a\nb", After: proto.String("x\x1b[31m")}},
	}}}}).start(t)
	out, _, code := p.run(t, "config", "history")
	if code != cli.ExitOK || strings.Count(out, "\n") != 2 || strings.ContainsAny(out, "\x1b\r") {
		t.Errorf("exit code %d; one revision with one change must be two lines without control characters:\n%q", code, out)
	}
	if !strings.Contains(out, `ann\x1b[1A\x1b[2K\nrevision 9  forged`) {
		t.Errorf("the author is not shown, escaped:\n%s", out)
	}
}

func TestLongValuesDoNotWidenTheList(t *testing.T) {
	answer := &configv1.ListResponse{}
	for i := range 10 {
		answer.Properties = append(answer.Properties, &configv1.ListedProperty{
			Property: &configv1.Property{Name: fmt.Sprintf("web.setting%d", i), Doc: "What it does."},
		})
	}
	answer.Properties[3].Values = []*configv1.Value{{Name: "web.setting3", Value: strings.Repeat("v", 262_144)}}
	out, _, code := (&platform{listed: answer}).start(t).run(t, "config", "list")
	if code != cli.ExitOK || len(out) > 5_000 || !strings.Contains(out, "web.setting9") {
		t.Errorf("exit code %d, %d bytes of output; want at most 5,000 for ten settings", code, len(out))
	}
}

func TestAValueIsPrintedAsItIsForPrograms(t *testing.T) {
	const value = "{\n\t\"a\": \"\x1b\"\n}"
	p := (&platform{get: answer[*configv1.GetRequest](&configv1.GetResponse{
		Values: []*configv1.Value{{Name: "web.x", Value: value}},
	})}).start(t)
	out, _, code := p.run(t, "config", "get", "web.x", "--app", "web")
	if code != cli.ExitOK || out != value+"\n" {
		t.Errorf("exit code %d, printed %q, want %q", code, out, value+"\n")
	}
}

func TestExitCodesOfAPublish(t *testing.T) {
	for kind, want := range map[errs.Kind]int{
		errs.Invalid: cli.ExitRefused, errs.Conflict: cli.ExitRefused, errs.Denied: cli.ExitRefused,
		errs.NotFound: cli.ExitNotFound, errs.Unavailable: cli.ExitUnreachable, errs.Unimplemented: cli.ExitFailed,
	} {
		p := (&platform{publish: func(*configv1.PublishRequest) (*configv1.PublishResponse, error) {
			return nil, errs.ToStatus(t.Context(), errs.Errorf(kind, "publishing 1 change: the reason")).Err()
		}}).start(t)
		out, problem, code := p.run(t, "config", "set", "web.x", "1", "--reason", "a test")
		if code != want || out != "" || !strings.Contains(problem, "publishing 1 change: the reason") {
			t.Errorf("%v: exit code %d, want %d; printed %q and %q", kind, code, want, out, problem)
		}
	}
}

func TestAPublishSaysWhoRunsIt(t *testing.T) {
	var asked *configv1.PublishRequest
	p := (&platform{
		publish: func(q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
			asked = q
			return &configv1.PublishResponse{Revision: 5, Applied: []*configv1.AppliedChange{{
				Name:  "web.x",
				After: proto.String("1"),
			}}}, nil
		},
		status: &configv1.StatusResponse{Revision: 5, Current: 1, Total: 2, Instances: []*configv1.InstanceStatus{
			{Identity: &configv1.Identity{App: "web", Instance: "web-1"}, Revision: 5},
			{Identity: &configv1.Identity{App: "web", Instance: "web-2"}, Revision: 4},
		}},
	}).start(t)
	out, problem, code := p.run(t, "config", "set", "web.x", "1", "--app", "web", "--reason", "a test")
	if asked.GetAuthor() != "ann" || asked.GetReason() != "a test" || asked.GetChanges()[0].GetScope().GetApp() != "web" {
		t.Errorf("published as %v", asked)
	}
	if !strings.HasPrefix(out, "revision 5\n") || !strings.Contains(out, "web.x") {
		t.Errorf("standard output is %q", out)
	}
	if code != cli.ExitFailed || !strings.Contains(problem, "1 of 2 instances on revision 5") ||
		!strings.Contains(problem, "web/web-2 is on revision 4") {
		t.Errorf("exit code %d, standard error is %q: it must count the instances and name the one that is behind", code,
			problem)
	}
}

func TestAChangeNeedsAReason(t *testing.T) {
	p := (&platform{}).start(t)
	for _, args := range [][]string{
		{"config", "set", "a", "1"},
		{"services", "out", "config-1"},
		{"circuits", "open", "catalog"},
	} {
		if _, problem, code := p.run(t, args...); code != cli.ExitUsage || !strings.Contains(problem, "--reason") {
			t.Errorf("%v: exit code %d, printed %q; want %d and a word about --reason", args, code, problem, cli.ExitUsage)
		}
	}
}

func TestServices(t *testing.T) {
	p := (&platform{instances: []*discoveryv1.Instance{
		{Service: "web", Id: "web-2", Status: discoveryv1.Status_STATUS_DRAINING},
		{Service: "web", Id: "web-1", Status: discoveryv1.Status_STATUS_UP, Suspect: true, OverrideReason: "disk\x1b[2J"},
	}}).start(t)
	out, _, code := p.run(t, "services", "web")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != cli.ExitOK || len(lines) != 3 || !strings.Contains(lines[1], `web-1     UP (suspect) (disk\x1b[2J)`) ||
		!strings.Contains(lines[2], "DRAINING") {
		t.Errorf("exit code %d, printed\n%s\nwant web-1 with its reason, escaped, above web-2", code, out)
	}
	if _, _, code := p.run(t, "services", "unknown"); code != cli.ExitNotFound {
		t.Errorf("an unknown service: exit code %d, want %d", code, cli.ExitNotFound)
	}
}

func TestTracesOfStrangers(t *testing.T) {
	p := (&platform{traces: `[[{"traceId":"ab","id":"1","name":"get \u001b[2J","timestamp":1,"duration":5,
		"localEndpoint":{"serviceName":"x\ny"},"tags":{"error":"a\nb"}}]]`}).start(t)
	out, _, code := p.run(t, "trace")
	if code != cli.ExitOK || strings.Count(out, "\n") != 2 || strings.Contains(out, "\x1b") {
		t.Errorf("exit code %d; one trace must be one line below the heading, without control characters:\n%q", code, out)
	}
}
