package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"bijou.dev/cmd/bijou/internal/cli"
	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"google.golang.org/grpc"
)

// platform is a server for all services that commands call. It answers with what a test has put into its fields.
type platform struct {
	addr string

	// discovery
	instances []*discoveryv1.Instance
	registry  *discoveryv1.ListResponse // what else it answers beside instances
	override  func(*discoveryv1.SetOverrideRequest) (*discoveryv1.SetOverrideResponse, error)
	// config
	history *configv1.HistoryResponse
	listed  *configv1.ListResponse
	get     func(*configv1.GetRequest) (*configv1.GetResponse, error)
	explain func(*configv1.ExplainRequest) (*configv1.ExplainResponse, error)
	diff    *configv1.DiffResponse
	status  *configv1.StatusResponse
	// statusError is what Status fails with. Nil: it succeeds.
	statusError error
	publish     func(*configv1.PublishRequest) (*configv1.PublishResponse, error)
	rollback    func(*configv1.RollbackRequest) (*configv1.PublishResponse, error)
	// circuits
	links *circuitsv1.LinksResponse
	board []*circuitsv1.WatchResponse // the messages of a Watch stream
	force func(*circuitsv1.ForceRequest) (*circuitsv1.ForceResponse, error)
	// tracing: the traces that every query finds, or a handler instead
	traces string
	zipkin http.HandlerFunc
	// admin is the admin port of every instance.
	admin http.HandlerFunc

	mu       sync.Mutex
	requests []string // of zipkin: path and query
}

// start serves the platform on loopback until the test ends.
func (p *platform) start(t *testing.T) *platform {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	zipkin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.requests = append(p.requests, r.URL.String())
		p.mu.Unlock()
		if p.zipkin != nil {
			p.zipkin(w, r)
			return
		}
		fmt.Fprint(w, p.traces)
	}))
	t.Cleanup(zipkin.Close)
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.admin(w, r) }))
	t.Cleanup(admin.Close)
	server := grpc.NewServer()
	discoveryv1.RegisterDiscoveryServer(server, registryServer{platform: p})
	configv1.RegisterConfigServer(server, settingsServer{platform: p})
	circuitsv1.RegisterCircuitsServer(server, boardServer{platform: p})
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	p.addr = l.Addr().String()
	for _, name := range []string{"config", "tracing", "circuits", "gateway"} {
		p.instances = append(p.instances, &discoveryv1.Instance{
			Service: name, Id: name + "-1", Status: discoveryv1.Status_STATUS_UP, Zone: "a", Version: "1",
			Endpoints: map[string]string{
				"grpc": p.addr, "zipkin": zipkin.Listener.Addr().String(), "admin": admin.Listener.Addr().String(),
				"http": "127.0.0.1:8080",
			},
		})
	}
	return p
}

// registryServer answers for discovery.
type registryServer struct {
	discoveryv1.UnimplementedDiscoveryServer
	*platform
}

func (p registryServer) List(_ context.Context, q *discoveryv1.ListRequest) (*discoveryv1.ListResponse, error) {
	answer := &discoveryv1.ListResponse{}
	if p.registry != nil {
		answer.SelfPreservation, answer.StoreProblem = p.registry.GetSelfPreservation(), p.registry.GetStoreProblem()
	}
	for _, i := range p.instances {
		if q.GetService() == "" || q.GetService() == i.GetService() {
			answer.Instances = append(answer.Instances, i)
		}
	}
	return answer, nil
}

func (p registryServer) SetOverride(_ context.Context, q *discoveryv1.SetOverrideRequest) (
	*discoveryv1.SetOverrideResponse, error,
) {
	return p.override(q)
}

// settingsServer answers for config.
type settingsServer struct {
	configv1.UnimplementedConfigServer
	*platform
}

func (p settingsServer) History(context.Context, *configv1.HistoryRequest) (*configv1.HistoryResponse, error) {
	return p.history, nil
}

func (p settingsServer) List(context.Context, *configv1.ListRequest) (*configv1.ListResponse, error) {
	return p.listed, nil
}

func (p settingsServer) Get(_ context.Context, q *configv1.GetRequest) (*configv1.GetResponse, error) {
	return p.get(q)
}

func (p settingsServer) Explain(_ context.Context, q *configv1.ExplainRequest) (*configv1.ExplainResponse, error) {
	return p.explain(q)
}

func (p settingsServer) Diff(context.Context, *configv1.DiffRequest) (*configv1.DiffResponse, error) {
	return p.diff, nil
}

func (p settingsServer) Status(context.Context, *configv1.StatusRequest) (*configv1.StatusResponse, error) {
	return p.status, p.statusError
}

func (p settingsServer) Publish(_ context.Context, q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
	return p.publish(q)
}

func (p settingsServer) Rollback(_ context.Context, q *configv1.RollbackRequest) (*configv1.PublishResponse, error) {
	return p.rollback(q)
}

// boardServer answers for circuits.
type boardServer struct {
	circuitsv1.UnimplementedCircuitsServer
	*platform
}

func (p boardServer) Links(context.Context, *circuitsv1.LinksRequest) (*circuitsv1.LinksResponse, error) {
	return p.links, nil
}

// Watch sends the messages of board and ends the stream.
func (p boardServer) Watch(_ *circuitsv1.WatchRequest, stream grpc.ServerStreamingServer[circuitsv1.WatchResponse],
) error {
	for _, m := range p.board {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (p boardServer) Force(_ context.Context, q *circuitsv1.ForceRequest) (*circuitsv1.ForceResponse, error) {
	return p.force(q)
}

// run runs a command against the platform and returns what it printed and its exit code.
func (p *platform) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return runCommand(t, []string{"USER=ann"}, append([]string{"--discovery", p.addr}, args...)...)
}

func runCommand(t *testing.T, environ []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, problems bytes.Buffer
	code = cli.Main(t.Context(), cli.World{
		Args: args, Stdout: &out, Stderr: &problems, Environ: environ, Now: t.Context(),
	})
	return out.String(), problems.String(), code
}

// expect runs a command and requires its exit code, and that standard error contains a text. Empty: that nothing is
// written to standard error. It returns standard output.
func (p *platform) expect(t *testing.T, code int, problem string, args ...string) string {
	t.Helper()
	stdout, stderr, got := p.run(t, args...)
	if got != code {
		t.Errorf("bijou %s: exit code %d, want %d; standard error is %q", strings.Join(args, " "), got, code, stderr)
	}
	switch {
	case problem == "" && stderr != "":
		t.Errorf("bijou %s: standard error is %q, want nothing", strings.Join(args, " "), stderr)
	case !strings.Contains(stderr, problem):
		t.Errorf("bijou %s: standard error is %q, want %q in it", strings.Join(args, " "), stderr, problem)
	}
	return stdout
}

// rows returns the words of each line.
func rows(text string) [][]string {
	var all [][]string
	for line := range strings.Lines(text) {
		all = append(all, strings.Fields(line))
	}
	return all
}

// answer returns a function that answers every request with one value.
func answer[Q, A any](a A) func(Q) (A, error) { return func(Q) (A, error) { return a, nil } }
