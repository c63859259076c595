package console

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// openPage opens a page that gets the given topics.
func openPage(t *testing.T, h *hub, topics ...string) *page {
	t.Helper()
	p, err := h.open(topics)
	if err != nil {
		t.Fatalf("opening a page: %v", err)
	}
	return p
}

func assertChanges(t *testing.T, when string, h *hub, p *page, want string) {
	t.Helper()
	if got := string(h.changes(p)); got != want {
		t.Errorf("%s the page gets %q, want %q", when, got, want)
	}
}

func TestSlowPageGetsOnlyTheNewestState(t *testing.T) {
	h := newHub(10, func() {})
	p := openPage(t, h, topicFleet, topicParts)
	for i := range 10000 {
		h.publish(topicFleet, i)
		h.publish(topicTraffic, i) // the page does not get this topic
	}
	h.publish(topicParts, "x")
	assertChanges(t, "after 10,000 states", h, p, "event: fleet\ndata: 9999\n\nevent: parts\ndata: \"x\"\n\n")
	assertChanges(t, "without a new state", h, p, "")
	h.publish(topicFleet, 9999)
	assertChanges(t, "after an equal state", h, p, "")
	h.publish(topicFleet, 10000)
	assertChanges(t, "after a new state", h, p, "event: fleet\ndata: 10000\n\n")
}

func TestNewPageGetsAllKnownStates(t *testing.T) {
	h := newHub(10, func() {})
	h.publish(topicFleet, 1)
	h.publish(topicTraffic, 2)
	assertChanges(t, "after it was opened", h, openPage(t, h, topics...),
		"event: fleet\ndata: 1\n\nevent: traffic\ndata: 2\n\n")
}

func TestPageLimit(t *testing.T) {
	h := newHub(2, func() {})
	first := openPage(t, h)
	openPage(t, h)
	if _, err := h.open(nil); err == nil {
		t.Error("a third page was opened, the limit is 2")
	}
	h.remove(first)
	openPage(t, h)
}

func TestStatesAreRemovedWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resets := 0
		h := newHub(10, func() { resets++ })
		p := openPage(t, h, topicFleet)
		h.publish(topicFleet, "old")
		h.remove(p)
		time.Sleep(idleAfter)
		if !h.waitUntilActive(t.Context()) || !h.isActive() || resets != 0 {
			t.Errorf("%v after the last page the hub is not active any more, or the states were removed", idleAfter)
		}
		time.Sleep(time.Second)
		woken := make(chan bool, 1)
		go func() { woken <- h.waitUntilActive(t.Context()) }()
		synctest.Wait()
		if len(woken) != 0 || h.isActive() || resets != 1 {
			t.Errorf("without pages for %v: active %t, %d resets; want idle and one reset",
				idleAfter+time.Second, h.isActive(), resets)
		}
		if got := h.get(topicFleet); got != nil {
			t.Errorf("the first request after the idle time got the old state %s", got)
		}
		if !<-woken {
			t.Error("a request did not make the hub active")
		}
	})
}

func TestEveryTopicCanBeRequested(t *testing.T) {
	for _, topic := range []string{
		topicParts, topicFleet, topicTraffic, topicCircuits, topicSettings, topicRoutes,
	} {
		if !slices.Contains(topics, topic) {
			t.Errorf("%s is published and cannot be requested", topic)
		}
	}
}
