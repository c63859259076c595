package discovery_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"google.golang.org/grpc"
)

// script is a registry that sends what a test gives it, and records what it receives.
type script struct {
	discoveryv1.UnimplementedDiscoveryServer
	net  *memnet.Network
	addr string
	grpc *grpc.Server
	done sync.WaitGroup

	mu         sync.Mutex
	streams    int
	say        chan *discoveryv1.WatchResponse // to the open watch stream
	first      *discoveryv1.WatchRequest
	acked      []int64
	opening    *discoveryv1.WatchResponse // sent to each new watch stream, if set
	beats      []*discoveryv1.RegisterRequest
	at         []time.Time // of beats
	refuse     error       // answer to heartbeats
	propagated bool        // sent with the answers to heartbeats
	mute       bool        // heartbeats get no answer
}

// newScript starts a registry on a host.
func newScript(t *testing.T, net *memnet.Network, host string) *script {
	t.Helper()
	s := &script{net: net, addr: host + ":7000", grpc: grpc.NewServer(), say: make(chan *discoveryv1.WatchResponse)}
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	discoveryv1.RegisterDiscoveryServer(s.grpc, s)
	s.done.Go(func() { _ = s.grpc.Serve(l) })
	t.Cleanup(s.stop)
	return s
}

func (s *script) stop() {
	s.grpc.Stop()
	s.done.Wait()
}

func (s *script) Watch(stream grpc.BidiStreamingServer[discoveryv1.WatchRequest, discoveryv1.WatchResponse]) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.streams++
	s.first = req
	opening := s.opening
	s.mu.Unlock()
	go func() {
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.acked = append(s.acked, req.GetAppliedVersion())
			s.mu.Unlock()
		}
	}()
	if opening != nil {
		if err := stream.Send(opening); err != nil {
			return err
		}
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case m := <-s.say:
			if m == nil {
				return errs.ToStatus(stream.Context(),
					errs.Errorf(errs.Unavailable, "the script ends the stream")).Err()
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
	}
}

func (s *script) Register(stream grpc.BidiStreamingServer[discoveryv1.RegisterRequest,
	discoveryv1.RegisterResponse],
) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.beats, s.at = append(s.beats, req), append(s.at, time.Now())
		refuse, propagated, mute := s.refuse, s.propagated, s.mute
		s.mu.Unlock()
		switch {
		case refuse != nil:
			return errs.ToStatus(stream.Context(), refuse).Err()
		case req.GetDeregister():
			return nil
		case mute:
			continue
		}
		if err := stream.Send(&discoveryv1.RegisterResponse{
			Instance:   req.GetInstance(),
			Propagated: propagated,
		}); err != nil {
			return err
		}
	}
}

func (s *script) set(change func(s *script)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// open makes each new watch stream begin with m.
func (s *script) open(m *discoveryv1.WatchResponse) { s.set(func(s *script) { s.opening = m }) }

// last is the newest heartbeat, and how many there were.
func (s *script) last() (*discoveryv1.RegisterRequest, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.beats) == 0 {
		return nil, 0
	}
	return s.beats[len(s.beats)-1], len(s.beats)
}

// instances reads "a1 a2:DRAINING b1": the first letter is the service.
func instances(list string) []*discoveryv1.Instance {
	var out []*discoveryv1.Instance
	for _, w := range strings.Fields(list) {
		id, status, ok := strings.Cut(w, ":")
		if !ok {
			status = "UP"
		}
		out = append(out, &discoveryv1.Instance{
			Service: id[:1], Id: id, Status: discoveryv1.Status(discoveryv1.Status_value["STATUS_"+status]),
			Endpoints: map[string]string{"grpc": id + ":7000"},
		})
	}
	return out
}

func snapshot(list string) *discoveryv1.WatchResponse {
	return &discoveryv1.WatchResponse{Version: 1, Snapshot: true, Instances: instances(list)}
}

func warming(list string) *discoveryv1.WatchResponse {
	m := snapshot(list)
	m.WarmingUp = true
	return m
}

func changed(list string) *discoveryv1.WatchResponse {
	return &discoveryv1.WatchResponse{Version: 2, Instances: instances(list)}
}

func removed(list string) *discoveryv1.WatchResponse {
	m := &discoveryv1.WatchResponse{Version: 3}
	for _, in := range instances(list) {
		m.Removed = append(m.Removed, &discoveryv1.InstanceRef{Service: in.GetService(), Id: in.GetId()})
	}
	return m
}

// view returns the instances of a client as "a1 a2:DRAINING a3?"; the question mark is a suspect.
func view(c *discovery.Client) string {
	var out []string
	for _, in := range c.Instances("") {
		s := in.ID
		if in.Status != discovery.Up {
			s += ":" + in.Status.String()
		}
		if in.Suspect {
			s += "?"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// run starts a client and stops it at the end of the test.
func run(t *testing.T, o discovery.Options) (c *discovery.Client, stop func()) {
	t.Helper()
	c, err := discovery.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error("running:", err)
		}
	})
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	return c, stop
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// settle waits long enough for a message, but not for a time-out.
func settle() { after(400 * time.Millisecond) }
