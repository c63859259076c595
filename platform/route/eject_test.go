package route_test

import (
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/route"
)

// The n-th ejection lasts n times as long as the first. Each sweep (every 8 s to 10 s) in which an endpoint answered
// without a failure takes one ejection from its count, so that an old fault does not make the next ejection longer.
func TestEjectionsAreForgivenAfterTimeWithoutFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(1)})
		b.Update(endpoints("a", "", 4))
		ejectTwice(t, b, "a2")
		traffic(t, b, 35_000, allGood)
		if s := stateOf(t, b, "a2"); s.Phase != "admitted" || s.Ejections != 0 {
			t.Fatalf("after 35 s without a failure a2 is %s with %d ejections, want admitted with 0",
				s.Phase, s.Ejections)
		}
		kill(t, b, "a2")
		if left := time.Until(stateOf(t, b, "a2").EjectedUntil); left < 4*time.Second || left > 5*time.Second {
			t.Errorf("the next ejection lasts %v, want 4 s to 5 s like a first one", left)
		}
	})
}

func TestEjectionsAreNotForgivenWhileThereAreFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(1)})
		b.Update(endpoints("a", "", 4))
		ejectTwice(t, b, "a2")
		sent := 0
		everyTenth := func(id string) route.Outcome {
			if sent++; id == "a2" && sent%10 == 0 {
				return route.Failure
			}
			return route.Success
		}
		traffic(t, b, 35_000, everyTenth)
		if s := stateOf(t, b, "a2"); s.Ejections < 2 {
			t.Errorf("after 35 s with failures a2 has %d ejections, want the 2 it had", s.Ejections)
		}
	})
}

// ejectTwice ejects an endpoint, fails its probe, and waits until it is admitted again.
func ejectTwice(t *testing.T, b *route.Balancer, id string) {
	t.Helper()
	kill(t, b, id)
	for n := 0; stateOf(t, b, id).Ejections < 2; n++ {
		if n > 100 {
			t.Fatalf("the probe of %s did not fail within 10 s: %+v", id, stateOf(t, b, id))
		}
		traffic(t, b, 100, func(picked string) route.Outcome {
			if picked == id {
				return route.Unreachable
			}
			return route.Success
		})
	}
	for n := 0; stateOf(t, b, id).Phase != "admitted"; n++ {
		if n > 110 {
			t.Fatalf("%s was not admitted again within 11 s: %+v", id, stateOf(t, b, id))
		}
		traffic(t, b, 100, allGood)
	}
}
