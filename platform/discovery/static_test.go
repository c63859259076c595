package discovery_test

import (
	"runtime"
	"testing"
	"weak"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
)

func TestStaticCompletesInstances(t *testing.T) {
	s := discovery.NewStatic(nil)
	s.Put("catalog", []discovery.Instance{
		{ID: "2", Status: discovery.Draining},
		{ID: "1", Zone: "old"},
		{ID: "1", Zone: "new", Service: "another"},
	})
	got := s.Instances("catalog")
	if len(got) != 2 || got[0].ID != "1" || got[1].ID != "2" {
		t.Fatalf("got %+v, want the instances 1 and 2, sorted", got)
	}
	if got[0].Service != "catalog" || got[0].Status != discovery.Up || got[0].Zone != "new" {
		t.Errorf("got %+v, want the later instance 1, as an UP instance of catalog", got[0])
	}
	if got[1].Status != discovery.Draining {
		t.Errorf("the status of instance 2 is %v, want the one it was given, DRAINING", got[1].Status)
	}
}

// A static directory has nothing to wait for, but says that its instances are not those of a registry.
func TestStaticHasNoRegistry(t *testing.T) {
	s := discovery.NewStatic(nil)
	if err := s.Synced(); err != nil {
		t.Errorf("Synced: %v, want nil", err)
	}
	if err := s.Current(); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("Current: %v, want that there is no registry", err)
	}
}

// A function may stop another watch whose call for the same change is still to come: that call is not made.
func TestStoppedWatchIsNotCalledForAChangeUnderWay(t *testing.T) {
	s := discovery.NewStatic(nil)
	var stops [2]func()
	called := 0
	for i := range stops {
		stops[i] = s.Watch("catalog", func(list []discovery.Instance) {
			if len(list) > 0 {
				called++
				stops[1-i]()
			}
		})
	}
	s.Put("catalog", []discovery.Instance{{ID: "1"}})
	if called != 1 {
		t.Errorf("of two watches that stop each other %d were called, want 1", called)
	}
	s.Put("catalog", []discovery.Instance{{ID: "2"}})
	if called != 2 {
		t.Errorf("after the next change %d calls were made, want 2: one watch is left", called)
	}
}

// A watch for each request must not fill the memory.
func TestStoppedWatchesAreNotKept(t *testing.T) {
	s := discovery.NewStatic(nil)
	type request struct{ body [1 << 10]byte }
	var held []weak.Pointer[request]
	for range 100 {
		r := &request{}
		held = append(held, weak.Make(r))
		s.Watch("catalog", func([]discovery.Instance) { r.body[0]++ })()
	}
	runtime.GC()
	for i, p := range held {
		if p.Value() != nil {
			t.Fatalf("what watch %d captured is still referenced after its stop", i)
		}
	}
	runtime.KeepAlive(s)
}
