package discovery_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
)

const up, down = discoveryv1.Status_STATUS_UP, discoveryv1.Status_STATUS_DOWN

// ending reads a stream to its end, and returns the error that ended it; nil: it ended without one.
func ending[M any](stream interface{ Recv() (M, error) }) error {
	for {
		if _, err := stream.Recv(); err == io.EOF { //nolint:errorlint // a stream returns io.EOF itself
			return nil
		} else if err != nil {
			return errs.FromRPC(err)
		}
	}
}

func TestRegistrationStreamsEndWithTheReason(t *testing.T) {
	deregister := heartbeat("catalog", "1", up)
	deregister.Deregister = true
	for name, c := range map[string]struct {
		act  func(s *stack, r *replica, stream discoveryv1.Discovery_RegisterClient) error
		kind errs.Kind
		text string // empty: no error
		left string // instances afterwards
	}{
		"deregistered": {
			func(_ *stack, _ *replica, stream discoveryv1.Discovery_RegisterClient) error {
				return stream.Send(deregister)
			},
			errs.Internal, "", "",
		},
		"another instance on the same stream": {
			func(_ *stack, _ *replica, stream discoveryv1.Discovery_RegisterClient) error {
				return stream.Send(heartbeat("catalog", "2", up))
			},
			errs.Invalid, "instance.id must stay the same on one stream", "1:UP",
		},
		"another stream of the same instance": {
			func(s *stack, r *replica, _ discoveryv1.Discovery_RegisterClient) error {
				s.register(r, heartbeat("catalog", "1", down))
				return nil
			},
			errs.Conflict, "it has opened another stream", "1:DOWN",
		},
		"the replica releases its streams": {
			func(_ *stack, r *replica, _ discoveryv1.Discovery_RegisterClient) error { r.Release(); return nil },
			errs.Unavailable, "use another one", "1:UP",
		},
		"the lease has ended": {
			func(*stack, *replica, discoveryv1.Discovery_RegisterClient) error {
				after(13 * time.Second)
				return nil
			},
			errs.Unavailable, "the lease has ended, register again", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inStack(t, func(t *testing.T, s *stack) {
				r := s.replica("discovery-1")
				settle()
				stream := s.register(r, heartbeat("catalog", "1", up))
				if err := c.act(s, r, stream); err != nil {
					t.Fatal(err)
				}
				err := ending(stream)
				switch {
				case c.text == "" && err == nil:
				case c.text == "":
					t.Errorf("the stream ended with %v, want no error", err)
				case errs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text):
					t.Errorf("the stream ended with %v, want kind %v and %q", err, c.kind, c.text)
				}
				settle()
				want(t, "instances afterwards", r.list(), c.left)
			})
		})
	}
}

func TestDeregisteringAnUnknownInstanceIsNoError(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		settle()
		stream := s.register(r)
		m := heartbeat("catalog", "1", up)
		m.Deregister = true
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
		if err := ending(stream); err != nil {
			t.Errorf("the stream ended with %v, want no error", err)
		}
		settle()
		if records := s.records(); len(records) != 0 {
			t.Errorf("the store has %v, want no record", records)
		}
	})
}

func TestBadWatchesAreRefused(t *testing.T) {
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprintf("s%d", i)
	}
	for name, c := range map[string]struct {
		messages []*discoveryv1.WatchRequest
		field    string
	}{
		"name of a service": {[]*discoveryv1.WatchRequest{{Services: []string{"catalog", "a/b"}}}, "services[1]"},
		"many services":     {[]*discoveryv1.WatchRequest{{Services: many}}, "services"},
		"control character": {[]*discoveryv1.WatchRequest{{Watcher: "a\x1b[31m"}}, "watcher"},
		"long name":         {[]*discoveryv1.WatchRequest{{Watcher: strings.Repeat("w", 257)}}, "watcher"},
		"version from the future": {
			[]*discoveryv1.WatchRequest{{Watcher: "test"}, {AppliedVersion: 1 << 40}}, "applied_version",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inStack(t, func(t *testing.T, s *stack) {
				stream, err := s.rpc(s.replica("discovery-1")).Watch(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range c.messages {
					if err := stream.Send(m); err != nil {
						t.Fatal(err)
					}
				}
				err = ending(stream)
				if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), c.field+" must") {
					t.Errorf("the stream ended with %v, want an invalid %s", err, c.field)
				}
			})
		})
	}
}

// slowWatch is a watch stream whose client reads a response only when the test does.
type slowWatch struct {
	grpc.BidiStreamingServer[discoveryv1.WatchRequest, discoveryv1.WatchResponse]
	requests  chan *discoveryv1.WatchRequest
	responses chan *discoveryv1.WatchResponse // without a buffer: Send blocks
}

func (w slowWatch) Send(m *discoveryv1.WatchResponse) error { w.responses <- m; return nil }

func (w slowWatch) Recv() (*discoveryv1.WatchRequest, error) {
	if m, ok := <-w.requests; ok {
		return m, nil
	}
	return nil, io.EOF
}

// watchSlowly starts a watch of all services. ended gets its result.
func watchSlowly(r *replica) (w slowWatch, ended chan error) {
	w = slowWatch{requests: make(chan *discoveryv1.WatchRequest, 1), responses: make(chan *discoveryv1.WatchResponse)}
	ended = make(chan error, 1)
	w.requests <- &discoveryv1.WatchRequest{Watcher: "slow"}
	go func() { ended <- r.Watch(w) }()
	return w, ended
}

// content returns what a response has, such as "1:UP" for an instance and "-1" for a removed one.
func content(m *discoveryv1.WatchResponse) map[string]bool {
	set := map[string]bool{}
	for _, in := range m.GetInstances() {
		set[in.GetId()+":"+strings.TrimPrefix(in.GetStatus().String(), "STATUS_")] = true
	}
	for _, ref := range m.GetRemoved() {
		set["-"+ref.GetId()] = true
	}
	return set
}

// While a watcher does not read, changes are merged: it gets only the newest state of each instance.
func TestSlowWatcherGetsTheNewestStateOnly(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 3)
		w, ended := watchSlowly(r)
		wanted := map[string]bool{"1:UP": true, "2:UP": true, "3:UP": true}
		if diff := cmp.Diff(wanted, content(<-w.responses)); diff != "" {
			t.Errorf("the snapshot (-want +got):\n%s", diff)
		}
		m[0].SetStatus(discovery.Down)
		settle() // this change is in the response that now waits for the watcher
		for range 20 {
			m[0].SetStatus(discovery.Up)
			settle()
			m[0].SetStatus(discovery.Down)
			settle()
		}
		passing := s.join(instance("catalog", "4"), discovery.RegistrarOptions{})
		settle()
		for _, m := range []*member{m[1], passing} {
			if err := m.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		settle()
		<-w.responses
		wanted = map[string]bool{"1:DOWN": true, "-2": true, "-4": true}
		if diff := cmp.Diff(wanted, content(<-w.responses)); diff != "" {
			t.Errorf("the response after 42 changes (-want +got):\n%s", diff)
		}
		close(w.requests)
		synctest.Wait()
		if err := <-ended; err != nil {
			t.Errorf("the watch ended with %v, want no error: its client has closed it", err)
		}
	})
}

func TestWatcherGetsAResponseAtLeastEverySixSeconds(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		s.joinAll("catalog", 1)
		after(15 * time.Second) // the registry has warmed up
		stream, err := s.rpc(r).Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		version := int64(0)
		for i := range 10 {
			if err := stream.Send(&discoveryv1.WatchRequest{AppliedVersion: version}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 6*time.Second || i > 0 && len(content(m)) > 0 {
				t.Errorf("response %d came after %v with %v, want an empty one within 6 s", i, took, content(m))
			}
			version = m.GetVersion()
		}
	})
}

func TestDrainDoesNotWaitForAWatcherThatHasLeft(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 1)
		w, ended := watchSlowly(r)
		<-w.responses
		drained := make(chan error, 1)
		began := time.Now()
		go func() { drained <- m[0].Drain(t.Context()) }()
		after(2 * time.Second)
		select {
		case err := <-drained:
			t.Fatalf("the drain ended before the watcher has acknowledged or left: %v", err)
		default:
		}
		close(w.requests)
		<-w.responses
		if err := <-drained; err != nil || time.Since(began) > 3*time.Second {
			t.Errorf("the drain took %v, error %v; want its end when the watcher left after 2 s",
				time.Since(began), err)
		}
		<-ended
	})
}
