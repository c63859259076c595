package forward

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"bijou.dev/platform/pace"
	"bijou.dev/platform/route"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/reply"
	"bijou.dev/services/gateway/routes"
)

// longLived holds the responses that have no end of their own: upgraded connections and streams.
type longLived struct {
	mu     sync.Mutex
	all    map[longResponse]*time.Timer // calls goAway; nil: the edge is not stopping
	until  time.Time                    // when goAway was called on all; zero: the edge is not stopping
	answer time.Duration                // for a client to close after goAway
	closed bool
}

// longResponse is one of them.
type longResponse interface {
	// goAway ends it between two messages, so that its client reconnects. A client that has to close the connection has
	// the time of answer for that; then the edge closes it.
	goAway(answer time.Duration)
	// close ends it at once.
	close()
}

// tunnel passes bytes both ways after the client has switched to another protocol. Of WebSockets it finds the ends of
// frames to the client, only to send a close frame between two of them.
type tunnel struct {
	client, origin io.ReadWriteCloser
	opaque         bool // the protocol is not WebSocket

	mu     sync.Mutex // guards writing to the client
	frames frames
	leave  bool          // send the close frame after the frame that is being written
	closed bool          // the close frame was sent
	answer time.Duration // for the client to close after the close frame
}

// closeGoingAway is a WebSocket close frame with code 1001, going away.
var closeGoingAway = []byte{0x88, 2, 0x03, 0xe9}

// maxCloseAnswer is how long a client may take at most to close its connection after a close frame. RFC 6455, section
// 7.1.1, lets a server close the connection after a reasonable time.
const maxCloseAnswer = 5 * time.Second

// halfOpen is how long one direction may go on after the other has ended.
const halfOpen = 5 * time.Second

// tunnel joins the client's connection with the origin's until either ends.
func (c *call) tunnel() *flow.Failure {
	origin, ok := c.last.res.Body.(io.ReadWriteCloser)
	if !ok || !strings.EqualFold(c.last.res.Header.Get("Upgrade"), c.Upgrade) {
		c.last.outcome = route.Failure
		return flow.Fail(flow.FaultOrigin, http.StatusBadGateway, "%s switched to another protocol than asked for",
			c.Target.Name)
	}
	h := reply.FromOrigin(c.last.res.Header)
	h.Add("Connection", "Upgrade")
	h.Add("Upgrade", c.Upgrade)
	client, err := c.out.Tunnel(h)
	if err != nil {
		c.result.Fault = flow.FaultClientGone
		return nil
	}
	t := &tunnel{client: client, origin: origin, opaque: c.Upgrade != routes.WebSocket}
	defer t.close()
	if !c.f.streams.add(t) {
		return nil
	}
	defer c.f.streams.remove(t)
	c.f.opts.Tunnels(1)
	defer c.f.opts.Tunnels(-1)
	c.out.Bytes = t.run()
	return nil
}

// run copies both ways and returns how many bytes the client got.
func (t *tunnel) run() (sent int64) {
	ended := make(chan struct{}, 2)
	go func() {
		_, _ = io.Copy(t.origin, t.client) // either side may close at any time
		closeWrite(t.origin)
		ended <- struct{}{}
	}()
	go func() {
		sent = t.copyToClient()
		closeWrite(t.client)
		ended <- struct{}{}
	}()
	<-ended
	rest := time.AfterFunc(halfOpen, t.close)
	<-ended
	rest.Stop()
	t.close()
	return sent
}

func closeWrite(c io.Closer) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the connection is closed soon in any case
	}
}

func (t *tunnel) close() {
	_ = t.client.Close()
	_ = t.origin.Close()
}

func (t *tunnel) copyToClient() (sent int64) {
	var buf http1.Buffer
	defer buf.Free()
	for n := 0; ; {
		p := buf.Next(n)
		var err error
		n, err = t.origin.Read(p)
		m, werr := t.write(p[:n])
		sent += int64(m)
		if err != nil || werr != nil {
			return sent
		}
	}
}

// write passes frames on, as long as the close frame was not sent.
func (t *tunnel) write(p []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(p) > 0 && !t.closed {
		k := len(p)
		if t.leave {
			k = t.frames.pass(p)
		} else if !t.opaque {
			for rest := p; len(rest) > 0; {
				rest = rest[t.frames.pass(rest):]
			}
		}
		m, err := t.client.Write(p[:k])
		n += m
		if err != nil {
			return n, err
		}
		p = p[k:]
		if t.leave && t.frames.between() {
			t.sendCloseLocked()
		}
	}
	return n, nil
}

// goAway sends the close frame after the current frame. The client then closes and reconnects. In a protocol that the
// edge does not know, the client has the same time to end by itself.
func (t *tunnel) goAway(answer time.Duration) {
	if t.opaque {
		time.AfterFunc(answer, t.close)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leave, t.answer = true, answer
	if t.frames.between() && !t.closed {
		t.sendCloseLocked()
	}
}

func (t *tunnel) sendCloseLocked() {
	t.closed = true
	time.AfterFunc(t.answer, t.close)     // the client may not read, so that writing blocks, or not answer
	_, _ = t.client.Write(closeGoingAway) // a client that has left needs none
}

// frames finds the ends of the frames of a WebSocket (RFC 6455, 5.2).
type frames struct {
	head [14]byte
	n    int    // bytes of head
	left uint64 // bytes of payload to come
}

// between reports whether no frame has begun.
func (f *frames) between() bool { return f.n == 0 && f.left == 0 }

// pass takes bytes up to the end of a frame, or all, and returns how many.
func (f *frames) pass(p []byte) (n int) {
	for n < len(p) {
		if f.left > 0 {
			k := int(min(f.left, uint64(len(p)-n)))
			f.left -= uint64(k)
			n += k
		} else {
			f.head[f.n] = p[n]
			f.n++
			n++
			if !f.headDone() {
				continue
			}
		}
		if f.between() {
			return n
		}
	}
	return n
}

// headDone reports whether the head is whole, and then begins the payload.
func (f *frames) headDone() bool {
	if f.n < 2 {
		return false
	}
	size, length := 2, uint64(f.head[1]&0x7f)
	switch length {
	case 126:
		size = 4
	case 127:
		size = 10
	}
	if f.head[1]&0x80 != 0 {
		size += 4 // the mask
	}
	if f.n < size {
		return false
	}
	if length >= 126 {
		bytesOf := 2
		if length == 127 {
			bytesOf = 8
		}
		length = 0
		for _, b := range f.head[2 : 2+bytesOf] {
			length = length<<8 | uint64(b)
		}
	}
	f.n, f.left = 0, length
	return true
}

// add adds a response; false: the edge is closed.
func (s *longLived) add(l longResponse) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.all == nil {
		s.all = map[longResponse]*time.Timer{}
	}
	s.all[l] = nil
	if !s.until.IsZero() {
		s.scheduleGoAwayLocked(l, max(time.Until(s.until), time.Second)) // it may end by itself before
	}
	return true
}

func (s *longLived) remove(l longResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if timer := s.all[l]; timer != nil {
		timer.Stop()
	}
	delete(s.all, l)
}

// drain calls goAway on all, spread over half of the time that ctx leaves.
func (s *longLived) drain(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	window := time.Second
	if until, ok := ctx.Deadline(); ok {
		window = max(time.Millisecond, time.Until(until)/2)
	}
	s.until = time.Now().Add(window)
	s.answer = min(maxCloseAnswer, window/2)
	for l := range s.all {
		s.scheduleGoAwayLocked(l, window)
	}
}

func (s *longLived) scheduleGoAwayLocked(l longResponse, within time.Duration) {
	answer := s.answer
	s.all[l] = time.AfterFunc(pace.Jitter(within/2, 1), func() { l.goAway(answer) })
}

// close ends all at once.
func (s *longLived) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for l := range s.all {
		l.close()
	}
}

// Drain ends streams and tunnels: each at a random moment within half of the time that ctx leaves, so that not all
// clients reconnect at once.
func (f *Forwarder) Drain(ctx context.Context) { f.streams.drain(ctx) }

// Close ends streams and tunnels at once.
func (f *Forwarder) Close() { f.streams.close() }
