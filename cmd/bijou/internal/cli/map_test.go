package cli_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"bijou.dev/cmd/bijou/internal/cli"
	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/load/loadtest"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"
)

// board is a circuits service that serves links.
type board struct {
	circuitsv1.UnimplementedCircuitsServer
	links *circuitsv1.LinksResponse
}

func (b board) Links(context.Context, *circuitsv1.LinksRequest) (*circuitsv1.LinksResponse, error) {
	return b.links, nil
}

// registry has one instance of circuits.
type registry struct {
	discoveryv1.UnimplementedDiscoveryServer
	addr string
}

func (r registry) List(context.Context, *discoveryv1.ListRequest) (*discoveryv1.ListResponse, error) {
	return &discoveryv1.ListResponse{Instances: []*discoveryv1.Instance{{
		Service: "circuits", Id: "circuits-1", Status: discoveryv1.Status_STATUS_UP,
		Endpoints: map[string]string{"grpc": r.addr},
	}}}, nil
}

// showMap runs `bijou map` against a circuits service that serves links.
func showMap(t *testing.T, links *circuitsv1.LinksResponse, flags ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	srv := grpc.NewServer()
	circuitsv1.RegisterCircuitsServer(srv, board{links: links})
	discoveryv1.RegisterDiscoveryServer(srv, registry{addr: addr})
	go func() { _ = srv.Serve(l) }() // ends with Stop
	t.Cleanup(srv.Stop)
	var stdout, stderr bytes.Buffer
	if code := cli.Main(t.Context(), cli.World{
		Args:   append([]string{"map", "--discovery", addr}, flags...),
		Stdout: &stdout, Stderr: &stderr, Now: t.Context(),
	}); code != cli.ExitOK {
		t.Fatalf("bijou map ended with %d: %s", code, stderr.String())
	}
	return stdout.String()
}

// TestMapShowsTheFiguresOfTheAPI has its twin in services/console: with the same input both show the same.
func TestMapShowsTheFiguresOfTheAPI(t *testing.T) {
	links := loadtest.Links(t)
	shown := &circuitsv1.LinksResponse{}
	if err := protojson.Unmarshal([]byte(showMap(t, links, "--json")), shown); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(links, shown, protocmp.Transform()); diff != "" {
		t.Errorf("bijou map --json (-served +shown):\n%s", diff)
	}
	var rows [][]string
	for line := range strings.Lines(showMap(t, links)) {
		rows = append(rows, strings.Fields(line))
	}
	want := [][]string{
		{"FROM", "TO", "CALLS/S", "ERRORS", "P50", "P99", "REJECTED/S", "FALLBACKS/S", "CIRCUITS"},
		{"INTERNET", "gateway", "41.2", "0.243%", "3.12ms", "901ms", "0.1", "0"},
		{"gateway", "web", "measuring", "closed"},
		{"web", "catalog", "12", "25%", "10.4ms", "203ms", "2", "3", "1", "not", "closed"},
		{"web", "search", "0.3", "100%", "-", "-", "0.3", "0", "2", "not", "closed"},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("bijou map (-want +got):\n%s", diff)
	}
}

func TestMapWithoutCalls(t *testing.T) {
	if got := showMap(t, &circuitsv1.LinksResponse{}); !strings.HasPrefix(got, "no calls yet") {
		t.Errorf("without links bijou map prints %q, want that there are no calls yet", got)
	}
}
