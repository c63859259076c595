package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
	"bijou.dev/platform/service"
	"bijou.dev/services/console"

	"google.golang.org/grpc"
)

// backends answer the console in place of the platform's services, with what a test puts in. The network, the dialing,
// the balancing and the admin pages are real.
type backends struct {
	mu        sync.Mutex
	list      *discoveryv1.ListResponse
	listed    int // calls of List
	status    *configv1.StatusResponse
	history   *configv1.HistoryResponse
	publish   func(*configv1.PublishRequest) (*configv1.PublishResponse, error)
	store     error // what the config instance reports of its store
	overrides []*discoveryv1.SetOverrideRequest
	forced    []*circuitsv1.ForceRequest
	board     *circuitsv1.WatchResponse // nil: a watch gets nothing
	ended     bool                      // a watch ends at once
	tables    string                    // what the gateway serves at /routes
	traces    http.HandlerFunc
}

// set changes what the back ends answer.
func (b *backends) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

type (
	registryServer struct {
		discoveryv1.UnimplementedDiscoveryServer
		*backends
	}
	settingsServer struct {
		configv1.UnimplementedConfigServer
		*backends
	}
	circuitsServer struct {
		circuitsv1.UnimplementedCircuitsServer
		*backends
	}
)

func (b registryServer) List(context.Context, *discoveryv1.ListRequest) (*discoveryv1.ListResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listed++
	return b.list, nil
}

func (b registryServer) SetOverride(
	_ context.Context, q *discoveryv1.SetOverrideRequest,
) (*discoveryv1.SetOverrideResponse, error) {
	b.set(func() { b.overrides = append(b.overrides, q) })
	return &discoveryv1.SetOverrideResponse{}, nil
}

func (b settingsServer) Status(context.Context, *configv1.StatusRequest) (*configv1.StatusResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, nil
}

func (b settingsServer) History(context.Context, *configv1.HistoryRequest) (*configv1.HistoryResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.history, nil
}

func (b settingsServer) Publish(_ context.Context, q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.publish(q)
}

func (b circuitsServer) Force(_ context.Context, q *circuitsv1.ForceRequest) (*circuitsv1.ForceResponse, error) {
	b.set(func() { b.forced = append(b.forced, q) })
	return &circuitsv1.ForceResponse{}, nil
}

// Watch sends the board each second, unless it is nil, and ends when watching is off.
func (b circuitsServer) Watch(_ *circuitsv1.WatchRequest,
	s grpc.ServerStreamingServer[circuitsv1.WatchResponse],
) error {
	for s.Context().Err() == nil {
		b.mu.Lock()
		board, ended := b.board, b.ended
		b.mu.Unlock()
		if ended {
			return nil
		}
		if board != nil {
			if err := s.Send(board); err != nil {
				return err
			}
		}
		pace.Sleep(s.Context(), time.Second)
	}
	return s.Context().Err()
}

// run starts one back end, named as a service, and lets the console know it. It stops with the test, or before by stop.
func (w *world) run(t *testing.T, name string, listen map[string]string, setup service.SetupFunc) (stop func()) {
	t.Helper()
	listen["grpc"], listen["admin"] = name+":7000", name+":9090"
	_, stop = start(t, w.net, service.Options{Name: name, Listen: listen}, setup)
	t.Cleanup(stop)
	w.known.Put(name, []discovery.Instance{{
		ID: name + "-1", Zone: "a", Version: "1", Status: discovery.Up, Endpoints: listen,
	}})
	return stop
}

// newPlatform starts a console with a registry, a config and a circuits service.
func newPlatform(t *testing.T) (*world, *backends) {
	t.Helper()
	b := &backends{
		list: &discoveryv1.ListResponse{}, status: &configv1.StatusResponse{}, history: &configv1.HistoryResponse{},
	}
	w := newWorld(t, console.Options{})
	w.run(t, "discovery", map[string]string{}, func(_ context.Context, s *service.Setup) error {
		discoveryv1.RegisterDiscoveryServer(s.GRPC(), registryServer{backends: b})
		return nil
	})
	w.run(t, "config", map[string]string{}, func(_ context.Context, s *service.Setup) error {
		configv1.RegisterConfigServer(s.GRPC(), settingsServer{backends: b})
		s.Note("store", func() error {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.store
		})
		return nil
	})
	w.run(t, "circuits", map[string]string{}, func(_ context.Context, s *service.Setup) error {
		circuitsv1.RegisterCircuitsServer(s.GRPC(), circuitsServer{backends: b})
		return nil
	})
	for _, name := range []string{"discovery", "config", "circuits"} {
		b.list.Instances = append(b.list.Instances, &discoveryv1.Instance{
			Service: name, Id: name + "-1", Zone: "a", Version: "1", Status: discoveryv1.Status_STATUS_UP,
			Endpoints: map[string]string{"grpc": name + ":7000", "admin": name + ":9090"},
		})
	}
	return w, b
}

// runGateway starts a gateway that the registry lists: /routes on its admin page, and requests answered by serve.
func (w *world) runGateway(t *testing.T, b *backends, serve http.HandlerFunc) {
	t.Helper()
	w.run(t, "gateway", map[string]string{"http": "gateway:8080"}, func(_ context.Context, s *service.Setup) error {
		s.Admin().HandleFunc("GET /routes", func(rw http.ResponseWriter, _ *http.Request) {
			b.mu.Lock()
			defer b.mu.Unlock()
			_, _ = rw.Write([]byte(b.tables))
		})
		return s.Handle("http", serve)
	})
	b.set(func() {
		b.list.Instances = append(b.list.Instances, &discoveryv1.Instance{
			Service: "gateway", Id: "gateway-1", Status: discoveryv1.Status_STATUS_UP,
			Endpoints: map[string]string{"admin": "gateway:9090", "http": "gateway:8080"},
		})
	})
}

// runTracing starts a trace store that the registry lists.
func (w *world) runTracing(t *testing.T, b *backends) {
	t.Helper()
	w.run(t, "tracing", map[string]string{"zipkin": "tracing:9411"}, func(_ context.Context, s *service.Setup) error {
		return s.Handle("zipkin", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { b.traces(rw, r) }))
	})
	b.set(func() {
		b.list.Instances = append(b.list.Instances, &discoveryv1.Instance{
			Service: "tracing", Id: "tracing-1", Status: discoveryv1.Status_STATUS_UP,
			Endpoints: map[string]string{"zipkin": "tracing:9411"},
		})
	})
}

// problem is the body of an error.
type problem struct {
	Detail string
	Code   string
	Errors []struct{ Field, Detail string }
}

// post sends JSON and returns the status and the body, which it reads into answer.
func (w *world) post(t *testing.T, path, body string, answer any) (status int) {
	t.Helper()
	status, _, text := w.do(t, "POST", path, body, "Content-Type", "application/json")
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		t.Fatalf("POST %s answered %d with text that is not JSON: %v\n%s", path, status, err, text)
	}
	return status
}

// part is what the topic parts has of one back end.
type part struct {
	OK      bool
	Problem string
	Since   time.Time
}

// awaitPart reads events until a part has the state ok.
func awaitPart(t *testing.T, next func(string, any), name string, ok bool) part {
	t.Helper()
	for {
		var parts map[string]part
		next("parts", &parts)
		if p, reported := parts[name]; reported && p.OK == ok {
			return p
		}
	}
}

// errRaw has the text of a broken connection, which must not reach a page.
var errRaw = errs.Errorf(errs.Unavailable, "waiting for the store: %w", errors.New("rpc error: code = Unavailable "+
	"desc = connection error: dial tcp 10.0.0.1:2379: connect: connection refused"))
