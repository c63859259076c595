package discovery_test

import (
	"testing"

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
