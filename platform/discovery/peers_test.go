package discovery_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/discovery"
)

func replica(id string, status discovery.Status) discovery.Instance {
	return discovery.Instance{ID: id, Status: status, Endpoints: map[string]string{"grpc": id + ":7000"}}
}

func TestPeersAreTheOtherInstances(t *testing.T) {
	known := discovery.NewStatic(map[string][]discovery.Instance{
		"tracing": {
			replica("c", discovery.Draining), replica("b", discovery.Down), replica("self", discovery.Up),
			replica("d", discovery.Starting),
			{ID: "e", Endpoints: map[string]string{"http": "e:8080"}},
		},
		"catalog": {replica("f", discovery.Up)},
	})
	got := discovery.Peers{Directory: known.Directory, Service: "tracing", Self: "self", Endpoint: "grpc"}.List()
	want := []discovery.Peer{{ID: "b", Addr: "b:7000"}, {ID: "c", Addr: "c:7000"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v: not itself, not one that is starting, not one without the endpoint", got, want)
	}
	if got := (discovery.Peers{Service: "tracing"}).List(); got != nil {
		t.Errorf("without a directory: got %v, want none", got)
	}
}

// events records when functions for peers start and end.
type events struct {
	mu  sync.Mutex
	all []string
}

func (e *events) add(what string, peer discovery.Peer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf("%s %s at %s", what, peer.ID, peer.Addr))
}

// take returns the events since the last call, sorted.
func (e *events) take() []string {
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.all
	e.all = nil
	slices.Sort(all)
	return all
}

func TestPeersAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := discovery.NewStatic(nil)
		var seen events
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			peers := discovery.Peers{Directory: known.Directory, Service: "circuits", Self: "self", Endpoint: "grpc"}
			peers.Follow(ctx, func(ctx context.Context, peer discovery.Peer) {
				seen.add("start", peer)
				<-ctx.Done()
				time.Sleep(time.Second) // a cleanup that takes time
				seen.add("end", peer)
			})
		}()
		moved := replica("a", discovery.Up)
		moved.Endpoints = map[string]string{"grpc": "new:7000"}
		for _, step := range []struct {
			name string
			put  []discovery.Instance
			want []string
			then []string // a second later
		}{
			{
				"two peers",
				[]discovery.Instance{
					replica("self", discovery.Up), replica("a", discovery.Up), replica("b", discovery.Up),
				},
				[]string{"start a at a:7000", "start b at b:7000"},
				nil,
			},
			{"another status is the same peer", []discovery.Instance{
				replica("a", discovery.Draining),
				replica("b", discovery.Up),
			}, nil, nil},
			{"one is removed", []discovery.Instance{replica("a", discovery.Up)}, nil, []string{"end b at b:7000"}},
			{
				"one has a new address",
				[]discovery.Instance{moved},
				nil,
				[]string{"end a at a:7000", "start a at new:7000"},
			},
		} {
			known.Put("circuits", step.put)
			if got := seen.take(); !slices.Equal(got, step.want) {
				t.Errorf("%s: got %v, want %v", step.name, got, step.want)
			}
			time.Sleep(time.Second)
			if got := seen.take(); !slices.Equal(got, step.then) {
				t.Errorf("%s, a second later: got %v, want %v", step.name, got, step.then)
			}
		}
		cancel()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("Follow returned before the function of the last peer")
		default:
		}
		<-ended
		if got := seen.take(); !slices.Equal(got, []string{"end a at new:7000"}) {
			t.Errorf("after the end of the context: got %v, want that the last function ended", got)
		}
		known.Put("circuits", []discovery.Instance{replica("c", discovery.Up)})
		if got := seen.take(); len(got) > 0 {
			t.Errorf("after Follow has returned: got %v, want nothing", got)
		}
	})
}
