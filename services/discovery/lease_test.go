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
	registry "bijou.dev/services/discovery"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestCrashIsEvictedAfterTheLease(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 3)
		c := s.follow(r)
		want(t, "at first", c.Instances("catalog"), "1:UP 2:UP 3:UP")
		after(time.Minute)
		want(t, "renewed", c.Instances("catalog"), "1:UP 2:UP 3:UP")

		m[0].crash()
		after(6 * time.Second) // the last heartbeat is up to 3.3 s ago
		want(t, "within the lease", c.Instances("catalog"), "1:UP 2:UP 3:UP")
		after(6 * time.Second)
		want(t, "after the lease", c.Instances("catalog"), "2:UP 3:UP")
		if p := s.state(r).GetSelfPreservation(); p.GetActive() {
			t.Errorf("one crash is no reason for self-preservation: %v", p)
		}
	})
}

func TestLeaseOfEachInstanceIsHonoured(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		s.joinAll("catalog", 2)
		quick := s.join(instance("quick", "1"), discovery.RegistrarOptions{
			Heartbeat: 500 * time.Millisecond,
			Lease:     2 * time.Second,
		})
		slow := s.join(instance("slow", "1"), discovery.RegistrarOptions{
			Heartbeat: 20 * time.Second,
			Lease:     time.Minute,
		})
		c := s.follow(r)
		after(2 * time.Minute)
		want(t, "renewed", c.Instances("quick"), "1:UP")
		want(t, "renewed", c.Instances("slow"), "1:UP")
		quick.crash()
		slow.crash()
		after(4 * time.Second)
		if list := s.state(r).GetInstances(); len(list) != 3 {
			t.Errorf("after 4 s: %d instances, want 3: quick/1 is evicted, slow/1 is not", len(list))
		}
		after(58 * time.Second)
		if list := s.state(r).GetInstances(); len(list) != 2 {
			t.Errorf("after 62 s: %d instances, want 2", len(list))
		}
	})
}

// An instance may ask for only a heartbeat or only a lease. All replicas must accept the default of the other one.
func TestDefaultsOfHeartbeatAndLeaseFitEachOther(t *testing.T) {
	for _, c := range []struct{ beat, lease, wantBeat, wantLease time.Duration }{
		{0, 0, 3 * time.Second, 10 * time.Second},
		{0, 200 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond},
		{0, 3 * time.Second, time.Second, 3 * time.Second},
		{0, time.Minute, 3 * time.Second, time.Minute},
		{time.Second, 0, time.Second, 10 * time.Second},
		{5 * time.Minute, 0, 5 * time.Minute, 10 * time.Minute},
	} {
		inStack(t, func(t *testing.T, s *stack) {
			a, b := s.replica("discovery-1"), s.replica("discovery-2")
			settle()
			stream, err := s.rpc(a).Register(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			req := heartbeat("catalog", "1", up)
			if c.beat > 0 {
				req.Heartbeat = durationpb.New(c.beat)
			}
			if c.lease > 0 {
				req.Lease = durationpb.New(c.lease)
			}
			if err := stream.Send(req); err != nil {
				t.Fatal(err)
			}
			resp, err := stream.Recv()
			if err != nil {
				t.Fatalf("heartbeat %v, lease %v: %v", c.beat, c.lease, err)
			}
			if beat, lease := resp.GetHeartbeat().AsDuration(), resp.GetLease().AsDuration(); beat != c.wantBeat ||
				lease != c.wantLease {
				t.Errorf("asked for heartbeat %v, lease %v: got %v and %v, want %v and %v",
					c.beat, c.lease, beat, lease, c.wantBeat, c.wantLease)
			}
			after(50 * time.Millisecond)
			want(t, "at the other replica", b.list(), "1:UP")
		})
	}
}

func TestBrokenStreamDoesNotDeregister(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 1)
		c := s.follow(r)
		m[0].crash()
		after(4 * time.Second)
		back := s.join(m[0].in, discovery.RegistrarOptions{})
		after(time.Minute)
		want(t, "after it came back", c.Instances("catalog"), "1:UP")
		if ok, why := back.Registered(); !ok {
			t.Error("not registered:", why)
		}
	})
}

// broken is a stream on which sending fails while more messages are received.
type broken struct {
	grpc.BidiStreamingServer[discoveryv1.RegisterRequest, discoveryv1.RegisterResponse]
	received chan *discoveryv1.RegisterRequest
}

func (b broken) Send(*discoveryv1.RegisterResponse) error { return io.ErrClosedPipe }

func (b broken) Recv() (*discoveryv1.RegisterRequest, error) {
	req, ok := <-b.received
	if !ok {
		return nil, io.EOF
	}
	return req, nil
}

func TestHeartbeatsOfAnEndedStreamAreIgnored(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		settle()
		old := broken{received: make(chan *discoveryv1.RegisterRequest, 1)}
		defer close(old.received)
		old.received <- heartbeat("catalog", "1", up)
		if err := r.Register(old); err == nil {
			t.Fatal("a stream on which sending fails ended without an error")
		}
		back, err := s.rpc(r).Register(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := back.Send(heartbeat("catalog", "1", up)); err != nil {
				t.Fatal(err)
			}
			if _, err := back.Recv(); err != nil {
				t.Fatalf("a heartbeat left on the old stream ended the new stream: %v", err)
			}
			old.received <- heartbeat("catalog", "1", up)
			synctest.Wait()
		}
	})
}

func TestManyLostInstancesBecomeSuspects(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		var m []*member
		for i := range 10 { // with heartbeats at different times
			m = append(m, s.join(instance("catalog", fmt.Sprint(i+1)), discovery.RegistrarOptions{}))
			after(700 * time.Millisecond)
		}
		c := s.follow(r)
		for _, m := range m[:4] {
			m.crash()
		}
		after(15 * time.Second)
		want(t, "40 % lost", c.Instances("catalog"), "1:UP? 10:UP 2:UP? 3:UP? 4:UP? 5:UP 6:UP 7:UP 8:UP 9:UP")
		p := s.state(r).GetSelfPreservation()
		if !p.GetActive() || !strings.Contains(p.GetReason(), "4 of 10 instances") {
			t.Errorf("self-preservation is %v, want it active because of 4 of 10 instances", p)
		}
		after(2 * time.Minute)
		want(t, "two minutes later", c.Instances("catalog"), "1:UP? 10:UP 2:UP? 3:UP? 4:UP? 5:UP 6:UP 7:UP 8:UP 9:UP")

		for _, m := range m[:4] {
			s.join(m.in, discovery.RegistrarOptions{})
		}
		after(2 * time.Second)
		want(t, "all are back", c.Instances("catalog"), "1:UP 10:UP 2:UP 3:UP 4:UP 5:UP 6:UP 7:UP 8:UP 9:UP")
		if p := s.state(r).GetSelfPreservation(); p.GetActive() {
			t.Errorf("self-preservation should have ended: %v", p)
		}
	})
}

// A replica that owns only two of eight lost instances must not evict them: it counts the suspects of the other
// replica.
func TestSelfPreservationOverReplicas(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		var m []*member
		for i := range 20 { // with heartbeats at different times
			seed := a.Addr
			if i%5 == 3 { // of those that are lost, the first whose lease ends
				seed = b.Addr
			}
			m = append(m, s.join(instance("catalog", fmt.Sprint(i+1)), discovery.RegistrarOptions{}, seed))
			after(700 * time.Millisecond)
		}
		for _, m := range m[3:11] { // two of b, six of a
			m.crash()
		}
		for range 60 {
			after(time.Second)
			for _, r := range []*replica{a, b} {
				if n := len(r.list()); n != 20 {
					t.Fatalf("%s has %d instances, want 20", r.Addr, n)
				}
			}
		}
		for _, r := range []*replica{a, b} {
			if p := s.state(r).GetSelfPreservation(); !p.GetActive() {
				t.Errorf("%s: self-preservation is %v, want it active", r.Addr, p)
			}
		}
		for i, m := range m[3:11] {
			s.join(m.in, discovery.RegistrarOptions{}, []string{a.Addr, b.Addr}[i%2])
		}
		after(5 * time.Second)
		for _, r := range []*replica{a, b} {
			if p := s.state(r).GetSelfPreservation(); p.GetActive() || strings.Contains(fmt.Sprint(r.list()), "true") {
				t.Errorf("%s: all are back, self-preservation is %v, instances %v", r.Addr, p, r.list())
			}
		}
	})
}

func TestSelfPreservationEndsAfterPreserveFor(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1", func(o *registry.Options) { o.PreserveFor = 2 * time.Minute })
		m := s.joinAll("catalog", 8)
		for _, m := range m[:3] {
			m.crash()
		}
		after(time.Minute)
		if n := len(s.state(r).GetInstances()); n != 8 {
			t.Fatalf("%d instances are left, want all 8", n)
		}
		after(75 * time.Second)
		if n := len(s.state(r).GetInstances()); n != 5 {
			t.Errorf("%d instances are left, want 5: the lost ones are evicted", n)
		}
		after(time.Minute)
		if p := s.state(r).GetSelfPreservation(); p.GetActive() {
			t.Errorf("self-preservation began again: %v", p)
		}
	})
}

// A scale-in whose instances deregister neither starts nor prolongs self-preservation.
func TestScaleInDoesNotCountAsLoss(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 20)
		for _, m := range m[:3] {
			m.crash()
		}
		for _, m := range m[3:18] {
			if err := m.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		after(15 * time.Second)
		if p := s.state(r).GetSelfPreservation(); !p.GetActive() {
			t.Fatal("3 of the 5 that are left have crashed: self-preservation should be on")
		}
		for _, m := range m[:3] {
			back := s.join(m.in, discovery.RegistrarOptions{})
			settle()
			if err := back.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		after(2 * time.Second)
		if p := s.state(r).GetSelfPreservation(); p.GetActive() {
			t.Errorf("self-preservation is still on: %v", p)
		}
		m[18].crash()
		after(13 * time.Second)
		if n := len(s.state(r).GetInstances()); n != 1 {
			t.Errorf("%d instances are left, want 1: one crash after the scale-in is evicted", n)
		}
	})
}
