package route_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/route"
)

// settings declares the settings with some of them changed.
func settings(t *testing.T, changed map[string]string) *route.Settings {
	t.Helper()
	set := config.Static(nil)
	s := route.NewSettings(set)
	for name, value := range changed {
		if err := set.Put(name, value); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// plain switches off everything but peak EWMA.
func plain(t *testing.T) *route.Settings {
	return settings(t, map[string]string{
		"route.failurePenalty":                    "0s",
		"route.slowStart.window":                  "0s",
		"route.ejection.consecutiveFailures":      "0",
		"route.ejection.successRate.minEndpoints": "0",
	})
}

// endpoints makes n of them, named prefix0, prefix1 ...
func endpoints(prefix, zone string, n int) []route.Endpoint {
	es := make([]route.Endpoint, n)
	for i := range es {
		id := fmt.Sprint(prefix, i)
		es[i] = route.Endpoint{ID: id, Addr: id + ":7000", Zone: zone}
	}
	return es
}

func seeded(seed uint64) func() uint64 {
	return rand.New(rand.NewPCG(seed, seed)).Uint64
}

func pick(t *testing.T, b *route.Balancer, info route.PickInfo) *route.Picked {
	t.Helper()
	p, err := b.Pick(info)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

// traffic sends n requests, one after the other, each taking a millisecond, and counts them by endpoint.
func traffic(t *testing.T, b *route.Balancer, n int, outcome func(id string) route.Outcome) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for range n {
		p := pick(t, b, route.PickInfo{})
		id := p.Endpoint().ID
		counts[id]++
		time.Sleep(time.Millisecond)
		p.Done(outcome(id))
	}
	return counts
}

func allGood(string) route.Outcome { return route.Success }

func stateOf(t *testing.T, b *route.Balancer, id string) route.EndpointState {
	t.Helper()
	for _, s := range b.State() {
		if s.ID == id {
			return s
		}
	}
	t.Fatalf("no state of %q", id)
	panic("unreachable")
}

func TestPickErrors(t *testing.T) {
	b := route.New(route.Options{Service: "catalog"})
	check := func(info route.PickInfo, want ...string) {
		t.Helper()
		_, err := b.Pick(info)
		if !errors.Is(err, errs.Unavailable) {
			t.Fatalf("Pick(%+v): %v; want one of kind Unavailable", info, err)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("Pick(%+v): %q does not say %q", info, err, w)
			}
		}
	}
	check(route.PickInfo{}, "catalog", "0 known")
	b.Update([]route.Endpoint{{ID: "a", Version: "1"}, {ID: "b", Version: "2"}})
	check(route.PickInfo{Exclude: []string{"a", "b", "gone"}}, "2 known", "2 excluded", "0 ejected")
	check(route.PickInfo{Version: "3"}, `"3"`, `["1" "2"]`)
	check(route.PickInfo{Version: "2", Exclude: []string{"b"}}, "catalog 2", "1 known", "1 excluded")
	b.Update(nil)
	check(route.PickInfo{}, "0 known")
}

func TestVersionPinsEndpoints(t *testing.T) {
	b := route.New(route.Options{})
	b.Update([]route.Endpoint{{ID: "a", Version: "1"}, {ID: "b", Version: "2"}, {ID: "c", Version: "2"}})
	seen := make(map[string]bool)
	for range 100 {
		seen[pick(t, b, route.PickInfo{Version: "2"}).Endpoint().ID] = true
	}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("picks of version 2 went to %v", got)
	}
}

// An excluded endpoint is never picked, whatever else is going on, and as long as another exists there is a pick.
func TestExcludeIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(7, 7))
		for range 300 {
			b := route.New(route.Options{Zone: "z0", Rand: rnd.Uint64})
			es := make([]route.Endpoint, 1+rnd.IntN(6))
			for i := range es {
				es[i] = route.Endpoint{
					ID: fmt.Sprint(i), Zone: fmt.Sprint("z", rnd.IntN(3)), Version: fmt.Sprint("v", rnd.IntN(2)),
				}
			}
			b.Update(es)
			for range 60 {
				info := route.PickInfo{Version: []string{"", "", "v0", "v1"}[rnd.IntN(4)], Stream: rnd.IntN(8) == 0}
				if rnd.IntN(2) == 0 {
					info.Hash = rnd.Uint64()
				}
				allowed := 0
				for _, e := range es {
					switch {
					case rnd.IntN(3) == 0:
						info.Exclude = append(info.Exclude, e.ID)
					case info.Version == "" || info.Version == e.Version:
						allowed++
					}
				}
				p, err := b.Pick(info)
				if (err == nil) != (allowed > 0) {
					t.Fatalf("Pick(%+v) of %v: %v", info, es, err)
				}
				if err != nil {
					continue
				}
				if e := p.Endpoint(); slices.Contains(info.Exclude, e.ID) ||
					info.Version != "" && e.Version != info.Version {
					t.Fatalf("Pick(%+v) = %+v", info, e)
				}
				time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
				p.Done(route.Outcome(rnd.IntN(4)))
			}
		}
	})
}

// What is not excluded shares the picks evenly.
func TestExcludeSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // for time to stand still
		b := route.New(route.Options{Rand: seeded(6)})
		b.Update(endpoints("a", "", 7))
		counts := make(map[string]int)
		for range 1200 {
			p := pick(t, b, route.PickInfo{Exclude: []string{"a3"}})
			counts[p.Endpoint().ID]++
			p.Done(route.Abandoned)
		}
		for i := range 7 {
			if n := counts[fmt.Sprint("a", i)]; i == 3 && n > 0 || i != 3 && (n < 150 || n > 250) {
				t.Errorf("a%d was picked %d times of 1200", i, n)
			}
		}
	})
}

func TestLocalZoneFirst(t *testing.T) {
	tests := []struct {
		name                  string
		here, elsewhere, dead int     // dead are here
		min, max              float64 // share of the picks that stays here
	}{
		{"even zones", 3, 3, 0, 1, 1},
		{"one lost of three, within overprovisioning", 3, 3, 1, 1, 1},
		{"small zone spills", 2, 10, 0, 0.42, 0.52}, // 1.4 x 2 x 2 / 12 = 0.47
		{"one alone is no choice", 1, 3, 0, 0.15, 0.35},
		{"nobody here", 0, 3, 0, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := route.New(route.Options{Zone: "here", Rand: seeded(3)})
				b.Update(append(endpoints("here", "here", tt.here), endpoints("else", "elsewhere", tt.elsewhere)...))
				for i := range tt.dead {
					kill(t, b, fmt.Sprint("here", i))
				}
				here, n := 0, 4000
				// Answers are immediate and the ejection lasts, so that only zones and shares matter.
				for range n {
					p := pick(t, b, route.PickInfo{})
					if p.Endpoint().Zone == "here" {
						here++
					}
					p.Done(route.Abandoned)
				}
				if share := float64(here) / float64(n); share < tt.min || share > tt.max {
					t.Errorf("%.2f of the picks stayed, want %.2f to %.2f", share, tt.min, tt.max)
				}
			})
		})
	}
}

func TestZonePreferenceCanBeSwitchedOff(t *testing.T) {
	set := config.Static(nil)
	b := route.New(route.Options{Zone: "here", Settings: route.NewSettings(set)})
	b.Update(append(endpoints("here", "here", 3), endpoints("else", "elsewhere", 3)...))
	count := func() (away int) {
		for range 200 {
			if pick(t, b, route.PickInfo{}).Endpoint().Zone != "here" {
				away++
			}
		}
		return away
	}
	if n := count(); n != 0 {
		t.Fatalf("%d picks left the zone", n)
	}
	if err := set.Put("route.zone.prefer", "false"); err != nil {
		t.Fatal(err)
	}
	if n := count(); n < 50 {
		t.Fatalf("%d of 200 picks left the zone although it is not preferred", n)
	}
}

// kill makes an endpoint fail until it is ejected.
func kill(t *testing.T, b *route.Balancer, id string) {
	t.Helper()
	var others []string
	for _, s := range b.State() {
		if s.ID != id {
			others = append(others, s.ID)
		}
	}
	for range 5 {
		pick(t, b, route.PickInfo{Exclude: others}).Done(route.Unreachable)
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(5)})
		b.Update(endpoints("old", "", 4))
		traffic(t, b, 20_000, allGood)
		b.Update(append(endpoints("old", "", 4), endpoints("new", "", 1)...))
		fair := 1.0 / 5
		first := float64(traffic(t, b, 1000, allGood)["new0"]) / 1000 / fair
		traffic(t, b, 3000, allGood)
		middle := float64(traffic(t, b, 2000, allGood)["new0"]) / 2000 / fair
		traffic(t, b, 5000, allGood)
		end := float64(traffic(t, b, 4000, allGood)["new0"]) / 4000 / fair
		if first < 0.02 || first > 0.3 {
			t.Errorf("in the first second it took %.2f of its turn, want about 0.1", first)
		}
		if middle < 0.3 || middle > 0.8 {
			t.Errorf("half-way it took %.2f of its turn, want about half", middle)
		}
		if end < 0.8 || end > 1.2 {
			t.Errorf("in the end it took %.2f of its turn, want all of it", end)
		}
	})
}

// Until its first answer an endpoint gets one request, however busy the others are.
func TestUnknownEndpointIsTriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(8), Settings: settings(t,
			map[string]string{"route.slowStart.window": "0s"})})
		b.Update(endpoints("old", "", 3))
		traffic(t, b, 100, allGood)
		b.Update(append(endpoints("old", "", 3), endpoints("new", "", 1)...))
		var first *route.Picked
		n := 0
		for range 100 {
			if p := pick(t, b, route.PickInfo{}); p.Endpoint().ID == "new0" {
				n++
				first = p
			}
		}
		if n != 1 {
			t.Fatalf("%d requests before the first answer, want 1", n)
		}
		time.Sleep(time.Millisecond)
		first.Done(route.Success)
		if n := traffic(t, b, 100, allGood)["new0"]; n < 40 {
			t.Errorf("%d of 100 requests after the first answer, want about half: it is the idlest", n)
		}
	})
}

// When all are new, nobody has to wait.
func TestColdStartIsEven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(5)})
		b.Update(endpoints("a", "", 1))
		time.Sleep(50 * time.Millisecond)
		b.Update(endpoints("a", "", 4)) // the others are connected a moment later
		for id, n := range traffic(t, b, 2000, allGood) {
			if n < 350 || n > 650 {
				t.Errorf("%s got %d of 2000 requests, want about 500", id, n)
			}
		}
	})
}

func TestEjectionAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(1)})
		b.Update(endpoints("a", "", 4))
		traffic(t, b, 20_000, allGood)
		kill(t, b, "a2")
		s := stateOf(t, b, "a2")
		if s.Phase != "ejected" || !strings.Contains(s.Reason, "5 requests") {
			t.Fatalf("after five failures: %+v", s)
		}
		if left := time.Until(s.EjectedUntil); left < 4*time.Second || left > 5*time.Second {
			t.Errorf("ejected for %v, want 4 s to 5 s", left)
		}
		dead := func(id string) route.Outcome {
			if id == "a2" {
				return route.Unreachable
			}
			return route.Success
		}
		if n := traffic(t, b, 3900, dead)["a2"]; n != 0 {
			t.Errorf("%d requests went to an ejected endpoint", n)
		}
		// The probe fails, and the next ejection is longer, but never longer than ten seconds.
		if n := traffic(t, b, 1200, dead)["a2"]; n != 1 {
			t.Errorf("%d requests probed it, want 1", n)
		}
		if s := stateOf(t, b, "a2"); s.Ejections != 2 || time.Until(s.EjectedUntil) < 7*time.Second {
			t.Errorf("after a failed probe: %+v", s)
		}
		if n := traffic(t, b, 50_000, dead)["a2"]; n < 5 || n > 7 {
			t.Errorf("%d probes in 50 s, want one every 8 s to 10 s", n)
		}
		// It is well again: within ten seconds it is back, and starts slowly.
		n := 0
		for stateOf(t, b, "a2").Phase != "admitted" {
			traffic(t, b, 100, allGood)
			if n++; n > 101 {
				t.Fatalf("not back after ten seconds: %+v", stateOf(t, b, "a2"))
			}
		}
		if s := stateOf(t, b, "a2"); s.Share > 0.2 {
			t.Errorf("it is back at %.2f of its share, want a slow start", s.Share)
		}
		traffic(t, b, 70_000, allGood)
		if n := traffic(t, b, 4000, allGood)["a2"]; n < 800 {
			t.Errorf("a minute later it gets %d of 4000 requests, want about 1000", n)
		}
	})
}

// One request that failed costs an endpoint its traffic for five seconds, not until the penalty has faded: then it is
// tried with one request at a time.
func TestAFailureIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(1)})
		b.Update(endpoints("a", "", 3))
		traffic(t, b, 20_000, allGood)
		for {
			p := pick(t, b, route.PickInfo{})
			ill := p.Endpoint().ID == "a1"
			if ill {
				time.Sleep(time.Second) // it was silent
				p.Done(route.Unreachable)
				break
			}
			p.Done(route.Success)
		}
		if n := traffic(t, b, 4900, allGood)["a1"]; n != 0 {
			t.Errorf("%d requests went to it within five seconds of its failure", n)
		}
		silent := func(id string) route.Outcome {
			if id == "a1" {
				return route.Unreachable
			}
			return route.Success
		}
		if n := traffic(t, b, 10_000, silent)["a1"]; n != 2 {
			t.Errorf("it was tried %d times in ten seconds, want 2", n)
		}
		if s := stateOf(t, b, "a1"); s.Phase != "admitted" || s.Failures != 3 {
			t.Errorf("after three failures: %+v", s)
		}
		if n := traffic(t, b, 6000, allGood)["a1"]; n < 100 {
			t.Errorf("it is well, and got %d of 6000 requests", n)
		}
		if n := traffic(t, b, 3000, allGood)["a1"]; n < 500 {
			t.Errorf("it is well, and got %d of 3000 requests", n)
		}
	})
}

func TestOneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(1)})
		b.Update(endpoints("a", "", 3))
		kill(t, b, "a0")
		time.Sleep(6 * time.Second)
		retry := pick(t, b, route.PickInfo{Exclude: []string{"a1"}})
		if id := retry.Endpoint().ID; id != "a2" {
			t.Errorf("a retry was used as the probe of %s", id)
		}
		probe := pick(t, b, route.PickInfo{})
		if w := probe.Why(); w.Chosen.ID != "a0" || w.Scope != route.Probe {
			t.Errorf("the first pick after the ejection: %v", w)
		}
		for range 50 {
			if p := pick(t, b, route.PickInfo{}); p.Endpoint().ID == "a0" {
				t.Fatalf("a second request during the probe: %v", p.Why())
			}
		}
		probe.Done(route.Success)
		if s := stateOf(t, b, "a0"); s.Phase != "admitted" {
			t.Errorf("after the probe succeeded: %+v", s)
		}
	})
}

func TestAbandonedProbeIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(1)})
		b.Update(endpoints("a", "", 3))
		kill(t, b, "a0")
		time.Sleep(6 * time.Second)
		pick(t, b, route.PickInfo{}).Done(route.Abandoned)
		p := pick(t, b, route.PickInfo{}) // and never done
		if p.Why().Scope != route.Probe {
			t.Errorf("after an abandoned probe: %v", p.Why())
		}
		time.Sleep(11 * time.Second)
		if p := pick(t, b, route.PickInfo{}); p.Why().Scope != route.Probe {
			t.Errorf("after a probe that never ended: %v", p.Why())
		}
	})
}

func TestFailuresThatAreNotInARowDoNotEject(t *testing.T) {
	b := route.New(route.Options{})
	b.Update(endpoints("a", "", 2))
	only := route.PickInfo{Exclude: []string{"a1"}}
	for range 20 {
		for range 4 {
			pick(t, b, only).Done(route.Unreachable)
		}
		pick(t, b, only).Done(route.Success)
		pick(t, b, only).Done(route.Failure)
	}
	if s := stateOf(t, b, "a0"); s.Phase != "admitted" {
		t.Errorf("%+v", s)
	}
}

func TestNotMoreThanHalfAreEjected(t *testing.T) {
	for n, want := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 9: 4} {
		b := route.New(route.Options{})
		b.Update(endpoints("a", "", n))
		for i := range n {
			kill(t, b, fmt.Sprint("a", i))
		}
		out := 0
		for _, s := range b.State() {
			if s.Phase != "admitted" {
				out++
			}
		}
		if out != want {
			t.Errorf("of %d endpoints, all dead, %d are ejected, want %d", n, out, want)
		}
	}
}

func TestPanicUsesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(2), Settings: settings(t,
			map[string]string{"route.ejection.maxShare": "1"})})
		b.Update(endpoints("a", "", 4))
		kill(t, b, "a0")
		kill(t, b, "a1")
		picks := func() (map[string]int, route.Why) {
			counts := make(map[string]int)
			var w route.Why
			for range 400 {
				p := pick(t, b, route.PickInfo{})
				counts[p.Endpoint().ID]++
				w = p.Why()
				p.Done(route.Abandoned)
			}
			return counts, w
		}
		counts, w := picks()
		if counts["a0"]+counts["a1"] > 0 || w.Panic {
			t.Errorf("half of them ejected: %v, %v", counts, w)
		}
		kill(t, b, "a2")
		counts, w = picks()
		if !w.Panic || w.Ejected != 3 || len(counts) != 4 {
			t.Errorf("three of four ejected: %v, %v", counts, w)
		}
	})
}

func TestOutlierBySuccessRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(4)})
		b.Update(endpoints("a", "", 6))
		rnd := rand.New(rand.NewPCG(1, 1))
		// One in a hundred fails everywhere; a3 fails every third time, never by not answering.
		flaky := func(id string) route.Outcome {
			if id == "a3" && rnd.IntN(3) == 0 || rnd.IntN(100) == 0 {
				return route.Failure
			}
			return route.Success
		}
		for range 4000 { // all at once, so that latency plays no part
			p := pick(t, b, route.PickInfo{Exclude: []string{
				fmt.Sprint("a", rnd.IntN(6)), fmt.Sprint("a", rnd.IntN(6)),
				fmt.Sprint("a", rnd.IntN(6)), fmt.Sprint("a", rnd.IntN(6)), fmt.Sprint("a", rnd.IntN(6)),
			}})
			p.Done(flaky(p.Endpoint().ID))
		}
		time.Sleep(11 * time.Second)
		pick(t, b, route.PickInfo{}).Done(route.Success)
		for _, s := range b.State() {
			if (s.Phase != "admitted") != (s.ID == "a3") {
				t.Errorf("%+v", s)
			}
		}
		if s := stateOf(t, b, "a3"); !strings.Contains(s.Reason, "below the limit") {
			t.Errorf("reason: %q", s.Reason)
		}
	})
}

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{})
		es := endpoints("a", "", 3)
		b.Update(es)
		kill(t, b, "a0")
		b.Update(es[1:])
		time.Sleep(2 * time.Second)
		b.Update(es)
		if s := stateOf(t, b, "a0"); s.Phase != "ejected" || s.LatencyMS < 3000 || s.Share > 0.1 {
			t.Errorf("back after two seconds, it should have its history and a slow start: %+v", s)
		}
		b.Update(es[1:])
		time.Sleep(2 * time.Minute)
		b.Update(es)
		if s := stateOf(t, b, "a0"); s.Phase != "admitted" || s.LatencyMS != 0 {
			t.Errorf("back after two minutes, it has a history: %+v", s)
		}
		kill(t, b, "a0")
		moved := slices.Clone(es)
		moved[0].Addr = "elsewhere:7000"
		b.Update(moved)
		if s := stateOf(t, b, "a0"); s.Phase != "admitted" || s.LatencyMS != 0 {
			t.Errorf("at a new address it has the old one's history: %+v", s)
		}
	})
}

func TestSlowAnswersAreRememberedAndFade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{})
		b.Update(endpoints("a", "", 1))
		latency := func() float64 { return stateOf(t, b, "a0").LatencyMS }
		call := func(d time.Duration, o route.Outcome) {
			p := pick(t, b, route.PickInfo{})
			time.Sleep(d)
			p.Done(o)
		}
		near := func(what string, want float64) {
			t.Helper()
			if got := latency(); got < want*0.97 || got > want*1.03 {
				t.Errorf("%s: %.1f ms, want about %.1f", what, got, want)
			}
		}
		call(100*time.Millisecond, route.Success)
		near("first", 100)
		call(time.Second, route.Success)
		near("a peak counts at once", 1000)
		time.Sleep(10 * time.Second)
		near("after one decay time", 1000/2.71828)
		call(500*time.Millisecond, route.Abandoned)
		near("a call abandoned after longer than that", 500)
		call(time.Millisecond, route.Abandoned)
		near("a call abandoned at once", 500)
		call(time.Millisecond, route.Failure)
		near("a failure is slow however fast", 5000)
	})
}

func TestStreamsDoNotCountAsLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := route.New(route.Options{Rand: seeded(9)})
		b.Update(endpoints("a", "", 3))
		counts := make(map[string]int)
		var open []*route.Picked
		for range 300 {
			p := pick(t, b, route.PickInfo{Stream: true})
			counts[p.Endpoint().ID]++
			open = append(open, p)
		}
		for id, n := range counts {
			if n < 90 || n > 110 {
				t.Errorf("%s has %d of 300 streams, want about 100", id, n)
			}
		}
		p := pick(t, b, route.PickInfo{})
		time.Sleep(20 * time.Millisecond)
		p.Answered(route.Success)
		time.Sleep(time.Hour)
		p.Done(route.Success)
		for _, p := range open {
			p.Done(route.Success)
			p.Done(route.Success) // a second time does nothing
		}
		for _, s := range b.State() {
			if s.LatencyMS > 21 || s.Pending != 0 {
				t.Errorf("%+v", s)
			}
		}
		broken := pick(t, b, route.PickInfo{Stream: true})
		time.Sleep(time.Hour)
		broken.Done(route.Unreachable)
		if s := stateOf(t, b, broken.Endpoint().ID); s.LatencyMS != 5000 {
			t.Errorf("a stream broke after an hour: %+v", s)
		}
	})
}

// A stream that answered and then breaks is a failure of its endpoint, however the answer began. One that ends well or
// is canceled after its answer adds nothing.
func TestFailureAfterAnsweredCounts(t *testing.T) {
	for _, tt := range []struct {
		name          string
		end           route.Outcome
		wantFailures  uint32
		wantLatencyMS float64
	}{
		{"connection lost", route.Unreachable, 1, 5000}, // 5000 ms is the penalty of a failure
		{"internal error", route.Failure, 0, 5000},      // an answer, so not one of those that eject by themselves
		{"well ended", route.Success, 0, 20},
		{"canceled", route.Abandoned, 0, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := route.New(route.Options{Rand: seeded(9)})
				b.Update(endpoints("a", "", 1))
				p := pick(t, b, route.PickInfo{})
				time.Sleep(20 * time.Millisecond)
				p.Answered(route.Success)
				p.Done(tt.end)
				s := b.State()[0]
				if s.Failures != tt.wantFailures {
					t.Errorf("the endpoint has %d failures in a row, want %d", s.Failures, tt.wantFailures)
				}
				if s.LatencyMS != tt.wantLatencyMS {
					t.Errorf("the latency of the endpoint is %v ms, want %v", s.LatencyMS, tt.wantLatencyMS)
				}
				if s.Pending != 0 {
					t.Errorf("%d requests are pending after all ended", s.Pending)
				}
			})
		})
	}
}

func TestWhy(t *testing.T) {
	b := route.New(route.Options{Zone: "here", Rand: seeded(1)})
	b.Update(append(endpoints("here", "here", 2), endpoints("else", "elsewhere", 2)...))
	w := pick(t, b, route.PickInfo{Exclude: []string{"here0", "here1"}}).Why()
	if w.Scope != route.Widened || w.Excluded != 2 || w.Known != 4 || w.Other.ID == "" {
		t.Errorf("%+v", w)
	}
	keys := make(map[string]string)
	for _, kv := range w.AppendAttributes(nil) {
		keys[string(kv.Key)] = kv.Value.String()
	}
	if keys["bijou.route.scope"] != "widened" || keys["bijou.route.excluded"] != "2" ||
		keys["bijou.route.instance"] != w.Chosen.ID {
		t.Errorf("%v", keys)
	}
	if got := pick(t, b, route.PickInfo{}).Why(); got.Scope != route.Local || got.LocalShare != 1 {
		t.Errorf("%+v", got)
	}
	data, err := json.Marshal(b.State()[0])
	if err != nil ||
		!strings.HasPrefix(string(data), `{"id":"here0","addr":"here0:7000","zone":"here","ready":true,"phase":"admitted"`) {
		t.Errorf("%s %v", data, err)
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	b := route.New(route.Options{Zone: "here"})
	es := append(endpoints("here", "here", 5), endpoints("else", "elsewhere", 9)...)
	b.Update(es)
	for name, info := range map[string]route.PickInfo{"plain": {}, "exclude": {Exclude: []string{"here1", "here3"}}} {
		if n := testing.AllocsPerRun(100, func() {
			p, _ := b.Pick(info)
			p.Done(route.Success)
		}); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// For the race detector: everything at once. Afterwards nothing is pending.
func TestConcurrentUse(t *testing.T) {
	set := config.Static(nil)
	b := route.New(route.Options{Zone: "here", Settings: route.NewSettings(set)})
	es := append(endpoints("here", "here", 4), endpoints("else", "elsewhere", 4)...)
	b.Update(es)
	var wg sync.WaitGroup
	for w := range uint64(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(w, w))
			for range 3000 {
				info := route.PickInfo{Stream: rnd.IntN(9) == 0}
				if rnd.IntN(4) == 0 {
					info.Exclude = []string{es[rnd.IntN(len(es))].ID}
				}
				p, err := b.Pick(info)
				if err != nil {
					t.Error(err)
					return
				}
				_ = p.Why()
				p.Done(route.Outcome(rnd.IntN(4)))
			}
		})
	}
	wg.Go(func() {
		for i := range 300 {
			b.Update(es[:4+i%5])
			b.State()
			if err := set.Put("route.slowStart.window", fmt.Sprintf("%ds", i%20)); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	b.Update(es)
	for _, s := range b.State() {
		if s.Pending != 0 {
			t.Errorf("after all is done: %+v", s)
		}
	}
}

func TestSettingsAreDocumented(t *testing.T) {
	set := config.Static(nil)
	route.NewSettings(set)
	entries := set.Entries()
	if len(entries) < 16 {
		t.Errorf("%d settings", len(entries))
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name, "route.") || e.Doc == "" {
			t.Errorf("%+v", e)
		}
	}
	if err := set.Put("route.ejection.maxShare", "2"); err == nil {
		t.Error("more than all endpoints may be ejected")
	}
}
