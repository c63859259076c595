package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// Client sends requests to origins. There is one connection to an address, and more when the origin takes no more
// streams on it. A request is written by the goroutine that calls RoundTrip; one goroutine for each connection reads.
type Client struct {
	// Dial connects to an address. Required.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex
	conns  map[string][]*clientConn // address -> connections that take streams
	dials  map[string]*dial         // address -> the connection that is being made
	closed bool
}

// Bounds of connections to origins.
const (
	answerRoom  = 1 << 20
	answersRoom = 4<<20 - 1
	maxTries    = 4
)

var (
	errFull   = errors.New("the origin takes no more requests on any connection")
	errSilent = errors.New("the origin's connection is silent")
)

// notTaken is the error of a request that the origin has not looked at: it may be sent again.
type notTaken struct{ error }

// dial is a connection that is being made. Those who need it wait for it together.
type dial struct {
	done chan struct{}
	err  error // set before done is closed
}

// Close closes idle connections now, and others when their requests end.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	var all []*clientConn
	for _, list := range c.conns {
		all = append(all, list...)
	}
	c.conns = nil
	c.mu.Unlock()
	for _, k := range all {
		k.retire()
	}
}

// RoundTrip sends a request to an address and returns the response, whose body must be read to its end or closed. Only
// connecting ends with ctx, the rest by call.Cancel.
func (c *Client) RoundTrip(ctx context.Context, addr string, call *http1.Call) (*message.Response, error) {
	for try := 1; ; try++ {
		s, err := c.open(ctx, addr, call)
		if err != nil {
			return nil, err
		}
		res, err := s.exchange(call)
		if err == nil {
			if res.Body == nil {
				call.Cancel.Release()
				s.conn.done(s, codeNo)
			}
			return res, nil
		}
		fine := call.Cancel.Release()
		s.conn.done(s, codeCancel)
		if _, again := errors.AsType[notTaken](err); !again || !fine || call.Body != nil || try == maxTries {
			return nil, err
		}
	}
}

// open returns a new stream on which the header was sent.
func (c *Client) open(ctx context.Context, addr string, call *http1.Call) (*clientStream, error) {
	for dials := 0; ; dials++ {
		c.mu.Lock()
		list := c.conns[addr] // it is replaced, never changed
		c.mu.Unlock()
		for _, k := range list {
			if s := k.open(call); s != nil {
				return s, nil
			}
		}
		if dials == maxTries {
			return nil, errFull
		}
		c.mu.Lock()
		d := c.dials[addr]
		if d == nil {
			d = &dial{done: make(chan struct{})}
			if c.dials == nil {
				c.dials = map[string]*dial{}
			}
			c.dials[addr] = d
			go c.connect(addr, d)
		}
		c.mu.Unlock()
		if err := d.wait(ctx, call.Cancel); err != nil {
			return nil, err
		}
	}
}

func (d *dial) wait(ctx context.Context, cancel *http1.Canceler) error {
	ctx, free := cancel.Context(ctx)
	defer free()
	select {
	case <-d.done:
		http1.Raise(d.err)
		return d.err
	case <-ctx.Done():
	}
	if cause := cancel.Cause(); cause != nil {
		return cause
	}
	return ctx.Err() //nolint:wrapcheck // the caller asks what it is
}

// connect makes a connection. It does not end with the request that needed it first, because others wait, too.
func (c *Client) connect(addr string, d *dial) {
	nc, err := c.dial(addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(d.done)
	delete(c.dials, addr)
	if _, ok := errors.AsType[*http1.Defect](err); err != nil && !ok {
		err = &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	if d.err = err; err != nil {
		return
	}
	k := &clientConn{client: c, addr: addr, most: 100, heard: time.Now()}
	k.init(nc, nil, k, answerRoom, answersRoom, message.MaxAnswerHead)
	k.out.within = writeTime
	k.last = ^uint32(0) // the next one is 1
	k.out.control(func(b []byte) []byte {
		b = appendSettings(append(b, http1.Preface...), setting{settingPush, 0}, setting{settingWindow, answerRoom},
			setting{settingFields, message.MaxAnswerHead})
		return appendWindow(b, 0, answersRoom-firstWindow)
	})
	if c.closed {
		k.retiring = true
	}
	if c.conns == nil {
		c.conns = map[string][]*clientConn{}
	}
	c.conns[addr] = append(slices.Clip(c.conns[addr]), k)
	k.mu.Lock()
	k.restLocked() // who needed it may have gone
	k.mu.Unlock()
	go k.serve()
}

func (c *Client) dial(addr string) (nc net.Conn, err error) {
	defer http1.Catch(&err)
	return c.Dial(context.Background(), "tcp", addr)
}

// remove removes a connection that takes no more streams.
func (c *Client) remove(k *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*clientConn
	for _, other := range c.conns[k.addr] {
		if other != k {
			list = append(list, other)
		}
	}
	if list == nil {
		delete(c.conns, k.addr)
	} else {
		c.conns[k.addr] = list
	}
}

// clientConn is a connection to an origin.
type clientConn struct {
	link
	client *Client
	addr   string

	// Guarded by link.mu.
	most     int       // streams that the origin takes at the same time
	retiring bool      // it takes no more streams
	heard    time.Time // when something was read last
	asked    bool      // a ping was sent since a message came: gRPC's servers close connections with more
	doubt    bool      // a request without an answer makes it doubtful that the origin is there
	idle     *time.Timer
}

// serve reads until the connection ends.
func (k *clientConn) serve() {
	err := k.readAll()
	if e, ok := errors.AsType[*connError](err); ok {
		k.out.control(func(b []byte) []byte { return appendGoAway(b, 0, e.code) })
	}
	limit := time.AfterFunc(lastTime, func() { _ = k.conn.Close() })
	k.out.drain() // what resets streams
	limit.Stop()
	k.client.remove(k)
	k.mu.Lock()
	k.retiring = true
	if k.idle != nil {
		k.idle.Stop()
	}
	k.mu.Unlock()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	k.end(fmt.Errorf("reading from the origin: %w", err))
	_ = k.conn.Close() // it is not needed any more
}

func (k *clientConn) readAll() (err error) {
	defer http1.Catch(&err)
	return k.readFrames()
}

// open opens a stream and sends the header of a request. Nil: the connection takes no more streams now.
func (k *clientConn) open(call *http1.Call) *clientStream {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.retiring || k.err != nil || len(k.streams) >= k.most || k.doubt || k.last == maxWindow {
		return nil
	}
	s := &clientStream{conn: k, method: call.Method, opened: time.Now()}
	s.client, s.left, s.started = s, -1, true
	k.last += 2
	k.openLocked(&s.stream, k.last)
	if k.idle != nil {
		k.idle.Stop()
	}
	length, empty := call.Length, call.Body == nil && len(call.Content) == 0
	if length == 0 && call.Method != http.MethodPost && call.Method != http.MethodPut && call.Method != http.MethodPatch {
		length = -1
	}
	s.sent = empty
	s.pseudo = [4]pseudo{
		{":method", call.Method}, {":scheme", "http"}, {":authority", call.Host}, {":path", call.Target()},
	}
	if err := k.out.headers(s.id, s.pseudo[:], requestFields(call), length, empty); err != nil {
		s.endLocked(err)
		return nil
	}
	return s
}

// requestFields are the fields of a request, and the names of its trailer.
func requestFields(call *http1.Call) message.Header {
	if call.Body == nil {
		return call.Header
	}
	h := call.Header
	for _, f := range call.Body.Trailer() {
		h = append(h[:len(h):len(h)], message.Field{Name: "Trailer", Value: f.Name})
	}
	return h
}

// retire lets the connection take no more streams, and closes it after the last one.
func (k *clientConn) retire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retiring = true
	k.closeIfIdleLocked()
}

func (k *clientConn) closeIfIdleLocked() {
	if len(k.streams) == 0 {
		k.out.stop()
	}
}

// done ends a stream.
func (k *clientConn) done(s *clientStream, c code) {
	s.close(c)
	k.out.flush(true)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.restLocked()
}

// restLocked takes note that a stream has ended.
func (k *clientConn) restLocked() {
	switch {
	case len(k.streams) > 0 || k.err != nil:
	case k.retiring || k.doubt:
		k.closeIfIdleLocked()
	case k.idle == nil:
		k.idle = time.AfterFunc(message.KeepIdle, k.rest)
	default:
		k.idle.Reset(message.KeepIdle)
	}
}

// rest closes a connection that was idle for long.
func (k *clientConn) rest() {
	k.mu.Lock()
	if len(k.streams) > 0 {
		k.mu.Unlock()
		return
	}
	k.retiring = true
	k.closeIfIdleLocked()
	k.mu.Unlock()
	k.client.remove(k)
}

// doubtLocked takes note that a request was given up before anything came on the connection: the origin may be gone
// without a word. Until something comes, the connection takes no more streams.
func (k *clientConn) doubtLocked(opened time.Time) {
	if k.heard.After(opened) || k.doubt {
		return
	}
	k.doubt = true
	if k.asked {
		return
	}
	k.asked = true
	k.out.control(func(b []byte) []byte { return appendPing(b, 0, []byte("is there")) })
	_ = k.conn.SetReadDeadline(time.Now().Add(pongTime)) // fails only when it is closed
}

// count implements role.
func (k *clientConn) count(h frameHead) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h.kind == frameHeaders || h.kind == frameData {
		k.asked = false
	}
	return nil
}

// wait implements role.
func (k *clientConn) wait(again bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !again {
		k.heard = time.Now()
		if k.doubt {
			k.doubt = false
			_ = k.conn.SetReadDeadline(time.Time{}) // fails only when it is closed
		}
	}
	if k.out.stopped.Load() {
		_ = k.conn.SetReadDeadline(message.LongAgo)
	}
}

// expired implements role.
func (k *clientConn) expired() error {
	if k.out.stopped.Load() {
		return io.EOF
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.doubt {
		_ = k.conn.SetReadDeadline(time.Time{})
		return nil
	}
	return errSilent
}

// header implements role.
func (k *clientConn) header(id uint32, b *block, end bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.streams[id]
	switch {
	case s == nil && k.isIdle(id):
		return broke(codeProtocol, "HEADERS of a stream that was not opened")
	case s == nil:
		return nil // it was given up here
	case s.ended:
		return &streamError{id, codeClosed, "HEADERS after the end"}
	case b.bad != "":
		return &streamError{id, codeProtocol, b.bad}
	case b.tooLarge:
		return &streamError{id, codeProtocol, fmt.Sprintf("the header is longer than %d bytes", message.MaxAnswerHead)}
	case s.client.res != nil:
		if !end || b.seen != 0 {
			return &streamError{id, codeProtocol, "what comes behind a body is not a trailer"}
		}
		s.trailer = b.fields
	default:
		if problem := s.client.take(b, end); problem != "" {
			return &streamError{id, codeProtocol, problem}
		}
	}
	s.ended = end
	k.wake(s)
	return nil
}

// fields implements role.
func (k *clientConn) fields(end bool) int {
	if end {
		return 3 // the trailer of gRPC
	}
	return 10
}

// late implements role: the stream was given up here, or the origin has sent more than its end.
func (k *clientConn) late(uint32, byte) error { return nil }

// received implements role.
func (k *clientConn) received(int) error { return nil }

// read implements role.
func (k *clientConn) read(int) {}

// goAway implements role.
func (k *clientConn) goAway(last uint32, c code) {
	k.client.remove(k)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retiring = true
	for id, s := range k.streams {
		if id > last {
			s.endLocked(notTaken{fmt.Errorf("the origin takes no more requests on this connection (HTTP/2 code %d)", c)})
			k.wake(s)
		}
	}
	k.restLocked()
}

// pong implements role.
func (k *clientConn) pong() {}

// setting implements role.
func (k *clientConn) setting(s setting) {
	if s.id == settingStreams {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.most = int(min(s.value, 1<<20))
	}
}

// start implements role: a client starts its streams itself.
func (k *clientConn) start(*stream) {}

// ended implements role.
func (k *clientConn) ended(*stream) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.restLocked()
}

// wasReset implements role.
func (k *clientConn) wasReset(*stream) error { return nil }

// sentFrame implements role.
func (k *clientConn) sentFrame(bool) {}

// resets implements role.
func (k *clientConn) resets(code) error { return nil }

// clientStream is a request to an origin and its response.
type clientStream struct {
	stream
	conn   *clientConn
	method string
	opened time.Time
	pseudo [4]pseudo

	// Guarded by link.mu.
	interim  []message.Response
	interims int
	res      *message.Response // nil: it has not come

	response message.Response // memory of res
	body     answerBody
}

// take takes the header of a response. An answer says why it is none.
func (s *clientStream) take(b *block, end bool) (problem string) {
	status, err := strconv.Atoi(b.status)
	switch {
	case b.seen != hasStatus || err != nil || len(b.status) != 3 || status < 100:
		return "a response has a status and no other pseudo field"
	case status == http.StatusSwitchingProtocols:
		return "there is no 101 in HTTP/2"
	case status < 200:
		if s.interims++; end || s.interims > message.MaxInterim {
			return message.ErrInterim.Error()
		}
		s.interim = append(s.interim, message.Response{Status: status, Header: b.fields})
		return ""
	}
	res := &s.response
	*res = message.Response{Status: status, Header: b.fields, Length: -1}
	if res.Header.Has("Content-Length") {
		length, err := strconv.ParseUint(res.Header.Get("Content-Length"), 10, 63)
		if err != nil || res.Header.Count("Content-Length") > 1 {
			return "there must be one Content-Length, of digits"
		}
		res.Length = int64(length)
		res.Header.Delete("Content-Length")
	}
	res.Announced = res.Header.Announced()
	switch {
	case !message.HasBody(s.method, status):
		s.left = 0
	case end && res.Length > 0:
		return "the body is shorter than its Content-Length"
	case end:
		res.Length = 0
	default:
		s.left = res.Length
	}
	s.res = res
	return ""
}

// Interrupt implements http1.Interrupter.
func (s *clientStream) Interrupt() {
	l := s.l
	l.mu.Lock()
	if s.res == nil && s.err == nil {
		s.conn.doubtLocked(s.opened)
	}
	if s.err == nil && (!s.sent || !s.ended) {
		l.sendResetLocked(s.id, codeCancel)
	}
	s.interrupted = true
	s.endLocked(errInterrupted)
	s.news.Broadcast()
	l.mu.Unlock()
	l.out.flushLater()
}

// exchange sends the body of the request and waits for the header of the response.
func (s *clientStream) exchange(call *http1.Call) (*message.Response, error) {
	call.Cancel.Hold(s)
	switch {
	case call.Body != nil:
		answered := make(chan struct{})
		s.conn.out.flush(false)
		call.Go(func() { s.upload(call, answered) })
		defer close(answered)
	case len(call.Content) > 0:
		if err := s.send(call.Content, true, writeTime); err != nil {
			if res, e := s.await(call); e == nil { // the origin may have answered before it has read all
				return res, nil
			}
			return nil, err
		}
	}
	s.conn.out.flush(false)
	return s.await(call)
}

// await waits for the header of the response.
func (s *clientStream) await(call *http1.Call) (*message.Response, error) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for len(s.interim) > 0 {
			first := s.interim[0]
			s.interim = s.interim[1:]
			l.mu.Unlock()
			call.Interim(first.Status, first.Header)
			l.mu.Lock()
		}
		switch {
		case s.res != nil && s.ended && s.got.n == 0 && len(s.trailer) == 0 && s.left <= 0:
			return s.res, nil // the header is the whole response
		case s.res != nil:
			s.setBody(call.Cancel)
			return s.res, nil
		case s.err != nil:
			http1.Raise(s.err)
			return nil, taken(s.err)
		}
		s.news.Wait()
	}
}

// taken returns the error of a stream that was closed before its response.
func taken(err error) error {
	if e, ok := errors.AsType[*resetError](err); ok && e.code == codeRefused {
		return notTaken{err}
	}
	return err
}

// setBody gives the response its body.
func (s *clientStream) setBody(cancel *http1.Canceler) {
	s.body = answerBody{s: s, cancel: cancel}
	s.res.Body = &s.body
}

// upload sends a body as it comes.
func (s *clientStream) upload(call *http1.Call, answered chan struct{}) {
	fromClient, toOrigin := s.copyBody(call)
	switch {
	case fromClient != nil:
		s.close(codeCancel) // the response to a part of a request is not used
		s.conn.out.flush(true)
		s.news.Broadcast()
	case errors.Is(toOrigin, errStalled):
		select {
		case <-answered:
		default:
			call.Cancel.Cancel(call.Late)
		}
	}
}

// copyBody sends the body, and its trailer.
func (s *clientStream) copyBody(call *http1.Call) (fromClient, toOrigin error) {
	var buf http1.Buffer
	defer buf.Free()
	for n := 0; ; {
		p := buf.Next(n)
		var err error
		n, err = call.Body.Read(p)
		last := errors.Is(err, io.EOF)
		var trailer message.Header
		if last {
			trailer = call.Body.Trailer()
		}
		if n > 0 || last && len(trailer) == 0 {
			if err := s.send(p[:n], last && len(trailer) == 0, call.Timeout); err != nil {
				return nil, err
			}
		}
		if len(trailer) > 0 {
			toOrigin = s.header(nil, trailer, -1, true)
		}
		s.conn.out.flush(false)
		switch {
		case last || toOrigin != nil:
			return nil, toOrigin
		case err != nil:
			return err, nil
		}
	}
}

// answerBody is the body of a response.
type answerBody struct {
	s      *clientStream // nil: it has ended
	cancel *http1.Canceler
}

// Read reads the body.
func (b *answerBody) Read(p []byte) (int, error) {
	s := b.s
	if s == nil {
		return 0, io.EOF
	}
	n, err := s.read(p)
	http1.Raise(err)
	if errors.Is(err, io.EOF) {
		s.res.Trailer = s.trailer
		b.finish(codeNo)
	}
	return n, err
}

// Buffered is how many bytes have come from the origin and were not read.
func (b *answerBody) Buffered() int {
	if b.s == nil {
		return 0
	}
	b.s.l.mu.Lock()
	defer b.s.l.mu.Unlock()
	return b.s.got.n
}

// Whole reports whether the response has come to its end.
func (b *answerBody) Whole() bool {
	if b.s == nil {
		return true
	}
	b.s.l.mu.Lock()
	defer b.s.l.mu.Unlock()
	return b.s.ended
}

// Close gives up what was not read.
func (b *answerBody) Close() error {
	if b.s != nil {
		b.finish(codeCancel)
	}
	return nil
}

func (b *answerBody) finish(c code) {
	s := b.s
	b.s = nil
	b.cancel.Release()
	s.conn.done(s, c)
}
