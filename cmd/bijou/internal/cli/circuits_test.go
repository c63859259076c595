package cli_test

import (
	"strings"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/internal/cli"
	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
)

// boardOf is a message of the board with one circuit for each state.
func boardOf(states ...circuitsv1.State) *circuitsv1.WatchResponse {
	web := &circuitsv1.ServiceCircuits{Service: "web"}
	for i, state := range states {
		web.Circuits = append(web.Circuits, &circuitsv1.Snapshot{
			Name: "catalog." + string(rune('A'+i)), Group: "catalog", State: state,
		})
	}
	return &circuitsv1.WatchResponse{Services: []*circuitsv1.ServiceCircuits{web}}
}

func TestCircuitsShowsEachCircuit(t *testing.T) {
	board := boardOf(circuitsv1.State_STATE_FORCED_OPEN, circuitsv1.State_STATE_HALF_OPEN)
	forcedOpen := board.GetServices()[0].GetCircuits()[0]
	forcedOpen.Requests, forcedOpen.ErrorPercentage, forcedOpen.Reason = 1234, 25, "game day\x1b[2J"
	forcedOpen.Rolling = map[string]int64{"SHORT_CIRCUITED": 3, "SEMAPHORE_REJECTED": 4, "FALLBACK_SUCCESS": 5}
	forcedOpen.Concurrent, forcedOpen.MaxConcurrent, forcedOpen.ReportingHosts = 2, 9, 3
	forcedOpen.Figures = &circuitsv1.Figures{P50Ms: proto.Float64(1.5)}
	p := (&platform{board: []*circuitsv1.WatchResponse{board}}).start(t)
	want := [][]string{
		{
			"CALLER", "CIRCUIT", "STATE", "REQUESTS", "ERRORS", "REJECTED", "FALLBACK", "BUSY/PEAK", "P50", "P99", "HOSTS",
			"REASON",
		},
		{
			"web", "catalog.A", "forced", "open", "1234", "25%", "7", "5", "2/9", "1.5ms", "-", "3", "game", `day\x1b[2J`,
		},
		{"web", "catalog.B", "half", "open", "0", "0%", "0", "0", "0/0", "measuring", "0"},
	}
	if diff := cmp.Diff(want, rows(p.expect(t, cli.ExitOK, "", "circuits"))); diff != "" {
		t.Errorf("bijou circuits (-want +got):\n%s", diff)
	}
	if out := p.expect(t, cli.ExitOK, "", "circuits", "--json"); !strings.Contains(out, `"state": "STATE_FORCED_OPEN"`) {
		t.Errorf("with --json it prints\n%s\nwant the answer of circuits", out)
	}
}

func TestCircuitsWithoutCircuits(t *testing.T) {
	p := (&platform{board: []*circuitsv1.WatchResponse{{}}}).start(t)
	if out := p.expect(t, cli.ExitOK, "", "circuits"); out != "no circuits yet: each appears with its first call\n" {
		t.Errorf("it prints %q", out)
	}
}

func TestCircuitsFailsWhenTheStreamEndsWithoutAnAnswer(t *testing.T) {
	p := (&platform{}).start(t)
	p.expect(t, cli.ExitUnreachable, "circuits ended the stream before it sent anything", "circuits")
}

func TestWatchingCircuitsShowsEachStateUntilTheStreamEnds(t *testing.T) {
	p := (&platform{board: []*circuitsv1.WatchResponse{
		boardOf(circuitsv1.State_STATE_CLOSED), boardOf(circuitsv1.State_STATE_OPEN),
	}}).start(t)
	out := p.expect(t, cli.ExitOK, "", "circuits", "--watch")
	var states []string
	for _, row := range rows(out) {
		states = append(states, row[2])
	}
	if diff := cmp.Diff([]string{"STATE", "closed", "STATE", "open"}, states); diff != "" {
		t.Errorf("the states shown (-want +got):\n%s", diff)
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("without a terminal it prints escape sequences: %q", out)
	}
}

func TestForcingACircuit(t *testing.T) {
	const open, closed = circuitsv1.State_STATE_FORCED_OPEN, circuitsv1.State_STATE_FORCED_CLOSED
	for args, want := range map[string]*circuitsv1.ForceRequest{
		"open catalog.A":        {Name: "catalog.A", State: open, Ttl: durationpb.New(10 * time.Minute)},
		"open catalog --for 5s": {Name: "catalog", State: open, Ttl: durationpb.New(5 * time.Second)},
		"close catalog.A --caller web": {
			Name: "catalog.A", Service: "web", State: closed, Ttl: durationpb.New(10 * time.Minute),
		},
		"release catalog --caller web":   {Name: "catalog", Service: "web"},
		"release not-called-yet.Another": {Name: "not-called-yet.Another"},
	} {
		t.Run(args, func(t *testing.T) {
			var asked *circuitsv1.ForceRequest
			p := (&platform{
				board: []*circuitsv1.WatchResponse{boardOf(circuitsv1.State_STATE_CLOSED)},
				force: func(q *circuitsv1.ForceRequest) (*circuitsv1.ForceResponse, error) {
					asked = q
					return &circuitsv1.ForceResponse{Revision: 8}, nil
				},
			}).start(t)
			out := p.expect(t, cli.ExitOK, "", append(append([]string{"circuits"}, strings.Fields(args)...), "--reason",
				"a test")...)
			want.Author, want.Reason = "ann", "a test"
			if diff := cmp.Diff(want, asked, protocmp.Transform()); diff != "" {
				t.Errorf("the request (-want +got):\n%s", diff)
			}
			if out != want.GetName()+": settings revision 8\n" {
				t.Errorf("it prints %q", out)
			}
		})
	}
}

func TestForcingACircuitThatIsNotCalledYetIsNoted(t *testing.T) {
	p := (&platform{
		board: []*circuitsv1.WatchResponse{boardOf(circuitsv1.State_STATE_CLOSED)},
		force: answer[*circuitsv1.ForceRequest](&circuitsv1.ForceResponse{Revision: 8}),
	}).start(t)
	p.expect(t, cli.ExitOK, `no circuit has the name "catalgo" yet`, "circuits", "open", "catalgo", "--reason", "a test")
}

func TestRefusalsToForceACircuit(t *testing.T) {
	for kind, code := range map[errs.Kind]int{
		errs.Invalid: cli.ExitRefused, errs.NotFound: cli.ExitNotFound, errs.Unavailable: cli.ExitUnreachable,
	} {
		p := (&platform{
			board: []*circuitsv1.WatchResponse{boardOf(circuitsv1.State_STATE_CLOSED)},
			force: func(*circuitsv1.ForceRequest) (*circuitsv1.ForceResponse, error) {
				return nil, errs.ToStatus(t.Context(), errs.Errorf(kind, "forcing catalog: the reason")).Err()
			},
		}).start(t)
		for _, command := range []string{"open", "close", "release"} {
			p.expect(t, code, "forcing catalog: the reason", "circuits", command, "catalog", "--reason", "a test")
		}
	}
}

func TestCompletionOffersTheNamesOfThePlatform(t *testing.T) {
	p := (&platform{
		board: []*circuitsv1.WatchResponse{boardOf(circuitsv1.State_STATE_CLOSED, circuitsv1.State_STATE_OPEN)},
		listed: &configv1.ListResponse{Properties: []*configv1.ListedProperty{
			{Property: &configv1.Property{Name: "web.x"}}, {Property: &configv1.Property{Name: "a.b"}},
		}},
	}).start(t)
	for words, want := range map[string]string{
		"config get w":      "web.x",
		"config explain ":   "web.x a.b",
		"circuits open cat": "catalog catalog.A catalog.B",
		"circuits release ": "catalog catalog.A catalog.B",
	} {
		out := p.expect(t, cli.ExitOK, "", append([]string{"__complete", "--"}, strings.Split(words, " ")...)...)
		if got := strings.Join(strings.Fields(out), " "); got != want {
			t.Errorf("bijou %s<Tab> offers %q, want %q", words, got, want)
		}
	}
}
