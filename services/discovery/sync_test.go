package discovery_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/kv"
	"github.com/google/go-cmp/cmp"
)

// put writes a key of the store as another program could.
func (s *stack) put(key, value string) {
	s.t.Helper()
	if _, err := s.store.Txn(s.t.Context(), kv.Txn{Then: []kv.Op{kv.Put(key, []byte(value))}}); err != nil {
		s.t.Fatal(err)
	}
}

// status is the answer of GET /v1/status.
type status struct {
	Suspects         int
	WarmingUp        bool
	UnreadableKeys   int
	Replicas         []string
	SelfPreservation struct {
		Active bool
		Reason string
		Since  time.Time
	}
}

func (r *replica) status(t *testing.T) (st status) {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/status", http.NoBody))
	if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil || w.Code != http.StatusOK {
		t.Fatalf("GET /v1/status: %d %s, %v", w.Code, w.Body, err)
	}
	return st
}

func TestUnreadableKeysOfTheStoreAreSkippedAndCounted(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a := s.replica("discovery-1")
		s.joinAll("catalog", 2)
		record := func(beat, lease, service, id string) string {
			return fmt.Sprintf(`{"owner":"other","heartbeat":%q,"lease":%q,"instance":{"service":%q,"id":%q}}`,
				beat, lease, service, id)
		}
		for key, value := range map[string]string{
			"instances/catalog/3": `{`,
			"instances/catalog/4": record("3s", "10s", "catalog", "1"), // the record of another instance
			"instances/catalog/5": record("3s", "4s", "catalog", "5"),
			"instances/catalog/6": record("3s", "1h", "catalog", "6"),
			"instances/catalog/7": record("soon", "10s", "catalog", "7"),
			"overrides/catalog/1": `"DOWN"`,
			"replicas/other":      `[]`,
		} {
			s.put("/bijou/discovery/"+key, value)
		}
		s.put("/bijou/discovery/instances/no/such/path", `{}`) // not a key of an instance: ignored
		settle()
		b := s.replica("discovery-2") // reads the same keys in a snapshot
		settle()
		for _, r := range []*replica{a, b} {
			want(t, r.Addr, r.list(), "1:UP 2:UP")
			if st := r.status(t); st.UnreadableKeys != 7 || len(st.Replicas) != 2 {
				t.Errorf("%s: %d unreadable keys, replicas %v; want 7 keys and the two replicas",
					r.Addr, st.UnreadableKeys, st.Replicas)
			}
		}
	})
}

func TestRestartedReplicaReadsInstancesAndGivesEachALease(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 2)
		after(15 * time.Second)
		r.Stop()
		m[0].crash()
		after(30 * time.Second)
		r = s.replica("discovery-1")
		settle()
		want(t, "at once", r.list(), "1:UP 2:UP")
		if r.status(t).WarmingUp {
			t.Error("the registry is warming up although the store had all instances")
		}
		after(9 * time.Second)
		want(t, "within one lease of the restart", r.list(), "1:UP 2:UP")
		after(5 * time.Second)
		want(t, "after one lease", r.list(), "2:UP")
	})
}

func TestRecordOfALiveInstanceIsWrittenAgainAfterItsDeletion(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		s.joinAll("catalog", 2, a.Addr)
		key := "/bijou/discovery/instances/catalog/1"
		if _, err := s.store.Txn(t.Context(), kv.Txn{Then: []kv.Op{kv.Delete(key)}}); err != nil {
			t.Fatal(err)
		}
		settle()
		if diff := cmp.Diff([]string{"catalog/1", "catalog/2"}, s.records()); diff != "" {
			t.Errorf("records of the store (-want +got):\n%s", diff)
		}
		for _, r := range []*replica{a, b} {
			want(t, r.Addr, r.list(), "1:UP 2:UP")
		}
	})
}

// An instance deregisters at a replica that has lost the store, and registers again at another one. The first replica
// must not delete the newer record when it has the store again.
func TestLateDeregistrationDoesNotRemoveANewerRegistration(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		m := s.joinAll("catalog", 2, a.Addr)
		a.store.Fail(nil)
		after(time.Second)
		for _, m := range m {
			if err := m.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.crash()
		}
		s.join(m[0].in, discovery.RegistrarOptions{}, b.Addr)
		after(2 * time.Second)
		a.store.Heal()
		for i := range 15 {
			after(time.Second)
			if got := show(b.list()); i > 1 && got != "1:UP" {
				t.Fatalf("%d s after the store is back: %q, want catalog/1 only", i+1, got)
			}
		}
		want(t, "at the replica that was cut off", a.list(), "1:UP")
		if diff := cmp.Diff([]string{"catalog/1"}, s.records()); diff != "" {
			t.Errorf("records of the store (-want +got):\n%s", diff)
		}
	})
}

// The same, while the first replica writes to the store but gets no updates from it.
func TestLateDeregistrationReadsTheNewerRecord(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		stream := s.register(a, heartbeat("catalog", "1", up))
		settle()
		a.store.Cut()
		s.register(b, heartbeat("catalog", "1", up))
		settle()
		m := heartbeat("catalog", "1", up)
		m.Deregister = true
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
		if err := ending(stream); err != nil {
			t.Fatal(err)
		}
		settle()
		for _, r := range []*replica{a, b} {
			want(t, r.Addr, r.list(), "1:UP")
		}
	})
}

// Overrides that were set and cleared while a replica was cut off are in effect there when it has the store again, also
// if the store has no history of the changes.
func TestOverridesCatchUpAfterACut(t *testing.T) {
	for name, compact := range map[string]bool{"history": false, "no history": true} {
		t.Run(name, func(t *testing.T) {
			inStack(t, func(t *testing.T, s *stack) {
				a, b := s.replica("discovery-1"), s.replica("discovery-2")
				settle()
				s.joinAll("catalog", 3, a.Addr)
				set := func(id string, status discoveryv1.Status) {
					t.Helper()
					if _, err := a.SetOverride(t.Context(), &discoveryv1.SetOverrideRequest{
						Service: "catalog", Id: id, Status: status,
					}); err != nil {
						t.Fatal(err)
					}
				}
				set("1", discoveryv1.Status_STATUS_DOWN)
				set("2", discoveryv1.Status_STATUS_DOWN)
				settle()
				want(t, "before the cut", b.list(), "1:DOWN 2:DOWN 3:UP")
				b.store.Cut()
				set("1", discoveryv1.Status_STATUS_UNSPECIFIED)
				set("2", discoveryv1.Status_STATUS_OUT_OF_SERVICE)
				set("3", discoveryv1.Status_STATUS_DOWN)
				settle()
				want(t, "during the cut", b.list(), "1:DOWN 2:DOWN 3:UP")
				if compact {
					s.store.Compact()
				}
				b.store.Heal()
				settle()
				want(t, "after the cut", b.list(), "1:UP 2:OUT_OF_SERVICE 3:DOWN")
			})
		})
	}
}

// The presence of a replica expires while it is cut off. It has a new one when it has the store again, and the others
// stop treating its instances as suspects.
func TestPresenceComesBackAfterACut(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		s.joinAll("catalog", 4, a.Addr)
		a.store.Fail(nil)
		after(40 * time.Second)
		if st := b.status(t); len(st.Replicas) != 1 || st.Suspects != 4 || !st.SelfPreservation.Active {
			t.Errorf("during the cut the other replica has %+v, want itself as the only replica and 4 suspects", st)
		}
		a.store.Heal()
		after(5 * time.Second)
		if st := b.status(t); len(st.Replicas) != 2 || st.Suspects != 0 {
			t.Errorf("after the cut the other replica has %+v, want 2 replicas and no suspects", st)
		}
		after(20 * time.Second)
		if st := b.status(t); st.SelfPreservation.Active {
			t.Errorf("after the cut self-preservation is still on: %+v", st)
		}
		want(t, "after the cut", b.list(), "1:UP 2:UP 3:UP 4:UP")
	})
}
