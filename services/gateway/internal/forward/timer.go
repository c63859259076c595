package forward

import (
	"sync"
	"time"
)

// timer limits the waits for an origin. It waits for one thing at a time, and can be used again.
type timer struct {
	c *call

	mu    sync.Mutex
	timer *time.Timer
	run   *int // made anew when timer has fired and its goroutine may be late; it tells that one from others
	wait  wait
	limit time.Duration
}

// wait is what a timer waits for.
type wait int

const (
	waitNothing    wait = iota
	waitHeader          // of the response: then it is too late
	waitPlace           // for the header of gRPC: then only the place in the circuit is given back
	waitMore            // of the response: then it is too late
	waitMoreUpload      // the same, but not too late while the client sends: that has a time of its own
)

func (t *timer) start(what wait, limit time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wait, t.limit = what, limit
	if t.timer == nil {
		run := new(int)
		t.run, t.timer = run, time.AfterFunc(limit, func() { t.fire(run) })
	} else {
		t.timer.Reset(limit)
	}
}

func (t *timer) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wait == waitNothing {
		return
	}
	if t.wait = waitNothing; !t.timer.Stop() {
		t.timer, t.run = nil, nil
	}
}

func (t *timer) fire(run *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.run != run {
		return
	}
	switch t.wait {
	case waitHeader, waitMore:
		t.c.last.cancel.Load().Cancel(errLate)
	case waitPlace:
		t.c.place.settle(errAborted)
	case waitMoreUpload:
		if t.c.body.stream.whole() {
			t.wait = waitMore
		}
		t.timer.Reset(t.limit)
	}
}
