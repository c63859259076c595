package discovery_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bijou.dev/platform/discovery"
	registry "bijou.dev/services/discovery"
	"github.com/google/go-cmp/cmp"
)

// The two limits of self-preservation, with the default and with other options.
func TestSelfPreservationBeginsAboveBothLimits(t *testing.T) {
	for _, c := range []struct {
		instances, lost int
		below           float64
		atLeast         int
		preserves       bool
	}{
		{4, 2, 0, 0, false},  // 50 %, but fewer than three
		{3, 3, 0, 0, true},   // all, and three
		{19, 3, 0, 0, true},  // 15.8 %
		{20, 3, 0, 0, false}, // exactly 15 %
		{20, 4, 0, 0, true},
		{4, 2, 0, 2, true},
		{10, 4, 0.5, 0, false},
		{10, 6, 0.5, 0, true},
		{10, 5, 0, 6, false},
	} {
		inStack(t, func(t *testing.T, s *stack) {
			r := s.replica("discovery-1", func(o *registry.Options) {
				o.PreserveBelow, o.PreserveAtLeast = c.below, c.atLeast
			})
			for _, m := range s.joinAll("catalog", c.instances)[:c.lost] {
				m.crash()
			}
			after(20 * time.Second)
			left, suspects := c.instances, c.lost
			if !c.preserves {
				left, suspects = c.instances-c.lost, 0
			}
			st, n := r.status(t), len(r.list())
			if n != left || st.Suspects != suspects || st.SelfPreservation.Active != c.preserves {
				t.Errorf("%d of %d lost, options %v and %d: %d instances, %d suspects, active %v; want %d, %d, %v",
					c.lost, c.instances, c.below, c.atLeast, n, st.Suspects, st.SelfPreservation.Active,
					left, suspects, c.preserves)
			}
		})
	}
}

// An eviction counts as a loss for one lease of the registry: one more crash within this time starts self-preservation.
func TestEvictionsCountAsLossesForOneLease(t *testing.T) {
	for gap, wantLeft := range map[time.Duration]int{time.Second: 8, 40 * time.Second: 7} {
		inStack(t, func(t *testing.T, s *stack) {
			r := s.replica("discovery-1", func(o *registry.Options) { o.Lease = 30 * time.Second })
			var m []*member
			for i := range 10 {
				m = append(m, s.join(instance("catalog", fmt.Sprint(i+1)), discovery.RegistrarOptions{}))
			}
			settle()
			m[0].crash()
			m[1].crash()
			after(12 * time.Second)
			if n := len(r.list()); n != 8 {
				t.Fatalf("12 s after two crashes %d instances are left, want 8", n)
			}
			after(gap)
			m[2].crash()
			after(12 * time.Second)
			if n := len(r.list()); n != wantLeft {
				t.Errorf("a third crash %v after two evictions: %d instances are left, want %d", gap, n, wantLeft)
			}
		})
	}
}

func TestStatusExplainsSelfPreservation(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 6)
		if p := r.status(t).SelfPreservation; p.Active || p.Reason != "" || !p.Since.IsZero() {
			t.Errorf("before: %+v, want it off without a reason and a time", p)
		}
		crashed := time.Now()
		for _, m := range m[:4] {
			m.crash()
		}
		after(15 * time.Second)
		p, wantReason := r.status(t).SelfPreservation, "4 of 6 instances have stopped renewing"
		if !p.Active || !strings.Contains(p.Reason, wantReason) {
			t.Errorf("after four crashes: %+v, want it active with the reason %q", p, wantReason)
		}
		if began := p.Since.Sub(crashed); began < 0 || began > 10*time.Second {
			t.Errorf("it began %v after the crashes, want before any lease of 10 s has ended", began)
		}
	})
}

// Losses that go on keep self-preservation on: its time counts from the last change.
func TestPreserveForCountsFromTheLastChange(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1", func(o *registry.Options) { o.PreserveFor = time.Minute })
		m := s.joinAll("catalog", 8)
		for _, m := range m[:3] {
			m.crash()
		}
		after(50 * time.Second)
		m[3].crash()
		after(50 * time.Second)
		want(t, "100 s after the first crashes", r.list(), "1:UP? 2:UP? 3:UP? 4:UP? 5:UP 6:UP 7:UP 8:UP")
		after(30 * time.Second)
		want(t, "80 s after the last crash", r.list(), "5:UP 6:UP 7:UP 8:UP")
	})
}

// Without the store no replica evicts; when it is back, each instance has one lease to renew.
func TestInstancesHaveOneLeaseAfterTheStoreIsBack(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 5)
		r.store.Fail(nil)
		after(2 * time.Second)
		for _, m := range m[:2] {
			m.crash()
		}
		after(time.Minute)
		want(t, "without the store", r.list(), "1:UP? 2:UP? 3:UP 4:UP 5:UP")
		r.store.Heal()
		for i := range 9 {
			after(time.Second)
			if n := len(r.list()); n != 5 {
				t.Fatalf("%d s after the store is back %d instances are left, want 5 for one lease", i+1, n)
			}
		}
		after(5 * time.Second)
		want(t, "after one lease", r.list(), "3:UP 4:UP 5:UP")
		if diff := cmp.Diff([]string{"catalog/3", "catalog/4", "catalog/5"}, s.records()); diff != "" {
			t.Errorf("records of the store (-want +got):\n%s", diff)
		}
	})
}
