package discovery_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
)

// register starts a registrar; the returned channel is closed when Run has returned.
func register(t *testing.T, net *memnet.Network, o discovery.RegistrarOptions, seeds ...string) (*discovery.Registrar,
	<-chan struct{},
) {
	t.Helper()
	c, err := discovery.New(discovery.Options{Seeds: seeds, DialContext: net.DialContext})
	if err != nil {
		t.Fatal(err)
	}
	r, err := discovery.NewRegistrar(c, discovery.Instance{
		Service: "catalog", ID: "catalog-1", Zone: "a", Version: "7",
		Endpoints: map[string]string{"grpc": "catalog-1:7000"},
		Metadata:  map[string]string{"team": "films"},
	}, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Error("running:", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r, done
}

func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		r, _ := register(t, s.net, discovery.RegistrarOptions{}, s.addr)
		after(time.Minute)
		_, n := s.last()
		if n < 18 || n > 24 {
			t.Errorf("%d heartbeats in a minute, want about 20", n)
		}
		r.SetStatus(discovery.Up)
		synctest.Wait()
		req, now := s.last()
		in := req.GetInstance()
		if now != n+1 || in.GetReported() != discoveryv1.Status_STATUS_UP {
			t.Errorf("a new status is to be sent at once; the last of %d heartbeats (before: %d) says %v", now, n,
				in.GetReported())
		}
		if in.GetService() != "catalog" || in.GetId() != "catalog-1" || in.GetVersion() != "7" ||
			in.GetMetadata()["team"] != "films" ||
			in.GetEndpoints()["grpc"] != "catalog-1:7000" || in.GetStarted() == nil ||
			req.GetHeartbeat().AsDuration() != discovery.HeartbeatDefault ||
			req.GetLease().AsDuration() != discovery.LeaseDefault {
			t.Errorf("a heartbeat is not complete: %v", req)
		}
		s.set(func(s *script) {
			gaps := map[time.Duration]bool{}
			for i := 2; i < n; i++ {
				gaps[s.at[i].Sub(s.at[i-1])] = true
			}
			if len(gaps) < 5 {
				t.Errorf("the times between heartbeats are %v: there is no jitter", gaps)
			}
		})
	})
}

func TestRegistrarNeverGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memnet.New()
		r, _ := register(t, net, discovery.RegistrarOptions{}, "one:7000")
		after(time.Hour)
		if ok, why := r.Registered(); ok || !strings.Contains(why, "one:7000") {
			t.Errorf("registered %v, %q; want the seed in the reason", ok, why)
		}
		s := newScript(t, net, "one")
		after(11 * time.Second)
		if ok, why := r.Registered(); !ok || why != "" {
			t.Errorf("after an hour: registered %v, %q", ok, why)
		}
		// The registry restarts without data.
		s.stop()
		after(6 * time.Second)
		if ok, why := r.Registered(); !ok || !strings.Contains(why, "connection refused") {
			t.Errorf("within the lease: registered %v, %q; want true, and that the connection is refused", ok, why)
		}
		after(5 * time.Minute)
		if ok, _ := r.Registered(); ok {
			t.Error("still counts as registered after five minutes")
		}
		s = newScript(t, net, "one")
		after(11 * time.Second)
		if _, n := s.last(); n == 0 {
			t.Error("the new registry got no heartbeat")
		}
	})
}

func TestRegistrarGoesToAnotherSeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memnet.New()
		seeds := map[string]*script{"one": newScript(t, net, "one"), "two": newScript(t, net, "two")}
		r, _ := register(t, net, discovery.RegistrarOptions{}, "one:7000", "two:7000")
		after(10 * time.Second)
		used, other := "one", "two"
		if _, n := seeds["two"].last(); n > 0 {
			used, other = "two", "one"
		}
		net.Cut(used) // no connection is closed
		for range 20 {
			after(time.Second)
			if ok, why := r.Registered(); !ok {
				t.Errorf("not registered in time: %s", why)
			}
		}
		if _, n := seeds[other].last(); n == 0 {
			t.Error("the other seed was not used")
		}
		net.Heal(used)
	})
}

func TestRefusalIsShownAndRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		refusal := errs.Errorf(errs.Invalid, "checking input").Field("instance.zone", "must be printable text")
		s.set(func(s *script) { s.refuse = refusal })
		r, _ := register(t, s.net, discovery.RegistrarOptions{}, s.addr)
		after(time.Minute)
		if ok, why := r.Registered(); ok || !strings.Contains(why, "instance.zone must be printable") {
			t.Errorf("registered %v, %q; want the registry's reason", ok, why)
		}
		if _, n := s.last(); n > 25 {
			t.Errorf("%d tries in a minute: refused heartbeats are to back off", n)
		}
		s.set(func(s *script) { s.refuse = nil })
		after(11 * time.Second)
		if ok, why := r.Registered(); !ok {
			t.Errorf("not registered: %s", why)
		}
	})
}

func TestDrainAndLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		s.set(func(s *script) { s.propagated = true })
		r, done := register(t, s.net, discovery.RegistrarOptions{}, s.addr)
		r.SetStatus(discovery.Up)
		settle()
		s.set(func(s *script) { s.propagated = false })
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if err := r.Drain(ctx); errs.KindOf(err) != errs.Timeout {
			t.Errorf("draining while watchers lag: %v, want a time-out", err)
		}
		time.AfterFunc(5*time.Second, func() { s.set(func(s *script) { s.propagated = true }) })
		began := time.Now()
		if err := r.Drain(t.Context()); err != nil || time.Since(began) < 5*time.Second {
			t.Errorf("draining took %v, %v; want to wait for the watchers", time.Since(began), err)
		}
		if req, _ := s.last(); req.GetInstance().GetReported() != discoveryv1.Status_STATUS_DRAINING {
			t.Errorf("drained as %v", req.GetInstance().GetReported())
		}
		if err := r.Leave(t.Context()); err != nil {
			t.Error("leaving:", err)
		}
		if req, _ := s.last(); !req.GetDeregister() {
			t.Errorf("the last message is %v, want a deregistration", req)
		}
		<-done
		if ok, why := r.Registered(); ok || why != "has left" {
			t.Errorf("registered %v, %q", ok, why)
		}
	})
}

func TestLeavingADeadRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		r, _ := register(t, s.net, discovery.RegistrarOptions{}, s.addr)
		settle()
		s.stop()
		settle()
		began := time.Now()
		if err := r.Leave(t.Context()); errs.KindOf(err) != errs.Unavailable || time.Since(began) > 5*time.Second {
			t.Errorf("leaving took %v, %v; want a quick unavailable", time.Since(began), err)
		}
	})
}

func TestNothingToLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never, _ := register(t, memnet.New(), discovery.RegistrarOptions{}, "one:7000")
		after(time.Minute)
		if err := never.Drain(t.Context()); err != nil {
			t.Errorf("draining an instance that was never registered: %v", err)
		}
		if err := never.Leave(t.Context()); err != nil {
			t.Errorf("leaving as an instance that was never registered: %v", err)
		}
	})
}

func TestRegistrarOptionsAreChecked(t *testing.T) {
	c, err := discovery.New(discovery.Options{Seeds: []string{"one:7000"}})
	if err != nil {
		t.Fatal(err)
	}
	for problem, o := range map[string]discovery.RegistrarOptions{
		"Heartbeat must not be negative":                  {Heartbeat: -time.Second},
		"Lease must be at least two heartbeats of 3s":     {Lease: 5 * time.Second},
		"Lease must be at least two heartbeats of 6s, is": {Heartbeat: 6 * time.Second},
		"is -1s": {Lease: -time.Second},
	} {
		_, err := discovery.NewRegistrar(c, discovery.Instance{Service: "catalog", ID: "1"}, o)
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), problem) {
			t.Errorf("%+v: got %v, want an Invalid error with %q", o, err, problem)
		}
	}
}

// A readiness check that passes after Drain must not make the instance UP again.
func TestStatusStaysAfterDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		r, _ := register(t, s.net, discovery.RegistrarOptions{}, s.addr)
		r.SetStatus(discovery.Up)
		after(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = r.Drain(ctx) // whether it propagates is not the question here
		r.SetStatus(discovery.Up)
		after(10 * time.Second)
		if req, _ := s.last(); req.GetInstance().GetReported() != discoveryv1.Status_STATUS_DRAINING {
			t.Errorf("after Drain the instance reports %v", req.GetInstance().GetReported())
		}
	})
}
