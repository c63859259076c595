package forward

import (
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // of WebSocket
	"encoding/base64"
	"errors"
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

// Tunnel passes bytes both ways after the client has switched to another protocol. Of WebSockets it finds the ends of
// frames to the client, only to send a close frame between two of them.
type Tunnel struct {
	client, origin io.ReadWriteCloser
	opaque         bool // the protocol is not WebSocket
	f              *Forwarder
	picked         route.Picked // is done when the tunnel ends
	outcome        route.Outcome
	end            func(sent int64)

	mu     sync.Mutex // guards writing to the client
	frames frames
	leave  bool          // send the close frame after the frame that is being written
	closed bool          // the close frame was sent
	answer time.Duration // for the client to close after the close frame
	sent   int64         // bytes that the client got

	ending sync.Mutex
	ended  int         // directions that have ended
	rest   *time.Timer // closes the tunnel when the other direction takes too long
}

// closeGoingAway is a WebSocket close frame with code 1001, going away.
var closeGoingAway = []byte{0x88, 2, 0x03, 0xe9}

// maxCloseAnswer is how long a client may take at most to close its connection after a close frame. RFC 6455, section
// 7.1.1, lets a server close the connection after a reasonable time.
const maxCloseAnswer = 5 * time.Second

// halfOpen is how long one direction may go on after the other has ended.
const halfOpen = 5 * time.Second

// tunnel joins the client's connection with the origin's. It goes on when the call has ended: the goroutine of a
// request has a large stack, and a call much memory, and a tunnel may be open for days.
func (c *call) tunnel() *flow.Failure {
	origin, ok := c.last.res.Body.(io.ReadWriteCloser)
	if !ok || !strings.EqualFold(c.last.res.Header.Get("Upgrade"), c.Upgrade) {
		return c.notSwitched("%s switched to another protocol than asked for", c.Target.Name)
	}
	accept := c.last.res.Header.Get("Sec-Websocket-Accept")
	if c.Protocol != "" && accept != webSocketAccept(c.header.Get(webSocketKey)) {
		return c.notSwitched("%s accepted another WebSocket than this one", c.Target.Name)
	}
	h := reply.FromOrigin(c.last.res.Header)
	h.Add("Connection", "Upgrade")
	h.Add("Upgrade", c.Upgrade)
	client, err := c.out.Tunnel(h)
	if err != nil {
		c.result.Fault = flow.FaultClientGone
		if client != nil {
			_ = client.Close() // the client has left
		}
		return nil
	}
	t := &Tunnel{client: client, origin: origin, opaque: c.Upgrade != routes.WebSocket, f: c.f}
	if !c.f.streams.add(t) {
		t.close()
		return nil
	}
	t.picked, t.outcome = c.last.picked, c.last.outcome
	c.last.picked, c.last.res = route.Picked{}, nil
	c.f.opts.Tunnels(1)
	c.result.Tunnel = t
	return nil
}

func (c *call) notSwitched(format string, args ...any) *flow.Failure {
	c.last.outcome = route.Failure
	return flow.Fail(flow.FaultOrigin, http.StatusBadGateway, format, args...)
}

// webSocketKey is a field that the edge sends for clients of HTTP/2, who have none. A server that has not read it
// cannot know what it must answer (RFC 6455, 4.2.2).
const webSocketKey = "Sec-Websocket-Key"

func newWebSocketKey() string {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	return base64.StdEncoding.EncodeToString(key[:])
}

func webSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455 says so
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Start passes frames in two goroutines until either side ends the tunnel. Then one of the goroutines calls end with
// how many bytes the client got. It must be called.
func (t *Tunnel) Start(end func(sent int64)) {
	t.end = end
	go t.toOrigin()
	go t.toClient()
}

func (t *Tunnel) toOrigin() {
	again := false
	defer t.catch()
	defer func() {
		if !again {
			t.endOne()
		}
	}()
	if again = pass(t.origin, t.client); again {
		go t.toOrigin()
	}
}

func (t *Tunnel) toClient() {
	again := false
	defer t.catch()
	defer func() {
		if !again {
			t.endOne()
		}
	}()
	if again = pass((*clientSide)(t), t.origin); again {
		go t.toClient()
	}
}

// pass copies until either side ends, and ends the sending direction; or until it is to be called again in a new
// goroutine. Both ends are connections of package http1, which hold no memory while nothing comes.
func pass(to io.Writer, from io.Reader) (again bool) {
	if w, ok := from.(io.WriterTo); ok {
		if _, err := w.WriteTo(to); errors.Is(err, http1.ErrIdle) {
			return true
		} // else either side has ended it
	} else {
		_, _ = io.Copy(to, from) // either side may end it
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the connection is closed soon in any case
	}
	return false
}

// endOne is called when a direction has ended.
func (t *Tunnel) endOne() {
	t.ending.Lock()
	if t.ended++; t.ended == 1 {
		t.rest = time.AfterFunc(halfOpen, t.close)
		t.ending.Unlock()
		return
	}
	t.ending.Unlock()
	t.rest.Stop()
	t.close()
	t.f.streams.remove(t)
	t.f.opts.Tunnels(-1)
	t.picked.Done(t.outcome)
	t.end(t.sent)
}

// catch ends the tunnel after a panic, which must not end the connections of others.
func (t *Tunnel) catch() {
	if v := recover(); v != nil {
		t.f.opts.Defect("a tunnel", v)
		t.close()
	}
}

func (t *Tunnel) close() {
	_ = t.client.Close()
	_ = t.origin.Close()
}

// clientSide is what the origin's frames are written to.
type clientSide Tunnel

// Write passes frames on.
func (t *clientSide) Write(p []byte) (int, error) { return (*Tunnel)(t).write(p) }

// CloseWrite ends the sending direction.
func (t *clientSide) CloseWrite() error {
	if half, ok := t.client.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite() //nolint:wrapcheck // it is not used
	}
	return nil
}

// write passes frames on, as long as the close frame was not sent. What comes after it is dropped: the origin goes on
// until the client has closed the connection.
func (t *Tunnel) write(p []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := len(p)
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
		t.sent += int64(m)
		if err != nil {
			return n, err
		}
		p = p[k:]
		if t.leave && t.frames.between() {
			t.sendCloseLocked()
		}
	}
	return all, nil
}

// goAway sends the close frame after the current frame. The client then closes and reconnects. In a protocol that the
// edge does not know, the client has the same time to end by itself.
func (t *Tunnel) goAway(answer time.Duration) {
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

func (t *Tunnel) sendCloseLocked() {
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
