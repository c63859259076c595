package http2

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/services/gateway/internal/http1"

	"golang.org/x/net/http2/hpack"
)

// link is what both sides of a connection have in common. One goroutine reads frames and gives them to streams. The
// goroutines that have something to send write them.
type link struct {
	conn net.Conn
	in   *http1.Input
	out  output
	role role

	// streamRoom and connRoom are how many bytes of bodies the other side may send before they are read.
	streamRoom, connRoom int64

	// Used by the reader only.
	began   bool      // the settings of the other side have come
	frame   frameHead // of the DATA frame in progress
	content int       // bytes of its content to come
	padding int       // and of padding behind them
	within  bool      // it is in progress
	to      *stream   // gets its content; nil: nobody
	dec     *hpack.Decoder
	block   block
	since   time.Time // the start of a frame or block that is not complete; zero: there is none
	batch   []*stream // have news

	mu      sync.Mutex
	streams map[uint32]*stream
	last    uint32 // the newest stream of the side that opens them
	window  int64  // bytes of bodies that may be sent
	first   int64  // the window of new streams
	room    int64  // bytes of bodies that the other side may send
	unacked int64  // bytes that were read, and not given back by a window update
	err     error  // why the connection has ended; nil: it has not
	// resetIDs has streams that were reset here: what still comes of them was sent before the other side knew.
	resetIDs [128]uint32
}

// role is the side of a connection: a server or a client. The reader calls it, without locks.
type role interface {
	// count takes note of a frame that has come.
	count(h frameHead) error
	// fields is how many fields a header or a trailer usually has.
	fields(end bool) int
	// header takes a header block that is complete.
	header(id uint32, b *block, end bool) error
	// late says that a frame of a kind has come for a stream that is not open any more.
	late(id uint32, kind byte) error
	// received takes note of n bytes of bodies. An error, that there is no memory for them, ends the connection.
	received(n int) error
	// read takes note that n bytes of bodies were read or dropped.
	read(n int)
	// goAway takes the last stream that the other side has taken.
	goAway(last uint32, c code)
	// pong takes an answer to a ping.
	pong()
	// settings takes a setting that is for the role only.
	setting(s setting)
	// start begins to handle a stream whose request has come.
	start(s *stream)
	// ended says that a stream was closed by a reset of the other side, or with the connection.
	ended(s *stream)
	// wasReset takes note that the other side has reset a stream. An error ends the connection.
	wasReset(s *stream) error
	// wait limits the time of the wait that follows. Again: nothing has come since it was called last.
	wait(again bool)
	// expired says that the time of wait is over; an error ends the connection.
	expired() error
	// sentFrame takes note of a frame of a message that was sent.
	sentFrame(end bool)
	// resets takes note that a stream is reset because of what the other side did. An error ends the connection.
	resets(c code) error
}

func (l *link) init(conn net.Conn, received []byte, r role, streamRoom, connRoom int64, maxFields int) {
	l.conn, l.role, l.streamRoom, l.connRoom = conn, r, streamRoom, connRoom
	l.in = http1.NewInput(conn, received)
	l.out.init(conn)
	l.streams = map[uint32]*stream{}
	l.window, l.first, l.room = firstWindow, firstWindow, connRoom
	l.block.most = maxFields
	l.dec = hpack.NewDecoder(tableSize, l.block.emit)
	l.dec.SetMaxStringLength(maxFields)
}

// readFrames reads until the connection ends, and returns why.
func (l *link) readFrames() error {
	for {
		var err error
		switch data := l.in.Data(); {
		case l.within:
			err = l.readContent(data)
		case len(data) < headSize:
			err = l.fill()
		default:
			err = l.readFrame(parseHead(data), data)
		}
		if se, ok := errors.AsType[*streamError](err); ok {
			err = l.reset(se)
		}
		if err != nil {
			return err
		}
	}
}

// fill waits for more bytes.
func (l *link) fill() error { return l.await(l.in.Fill) }

// await reads within the time of the role. What was read before is worked on meanwhile.
func (l *link) await(read func() error) error {
	l.deliver()
	if l.since.IsZero() && (l.within || l.block.id != 0 || len(l.in.Data()) > 0) {
		l.since = time.Now()
	}
	for again := false; ; again = true {
		l.role.wait(again)
		err := read()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := l.role.expired(); err != nil {
			return err
		}
	}
}

// deliver wakes the streams that have news, and sends what answers frames.
func (l *link) deliver() {
	for _, s := range l.batch {
		s.queued = false
		if !s.started {
			s.started = true
			l.role.start(s)
		} else {
			s.news.Broadcast()
		}
	}
	clear(l.batch)
	l.batch = l.batch[:0]
	l.out.flushLater()
}

// wake makes deliver wake a stream. All frames that have come are read before that: so a stream has its whole message
// when its goroutine runs.
func (l *link) wake(s *stream) {
	if !s.queued {
		s.queued = true
		l.batch = append(l.batch, s)
	}
}

// readFrame reads the frame with which data begins.
func (l *link) readFrame(h frameHead, data []byte) error {
	l.frame = h
	switch {
	case h.length > maxFrame:
		return broke(codeFrameSize, "a frame is too large")
	case !l.began && (h.kind != frameSettings || h.has(flagAck)):
		return broke(codeProtocol, "settings must come first")
	case l.block.id != 0 && (h.kind != frameContinuation || h.stream != l.block.id):
		return broke(codeProtocol, "a frame within a header block")
	}
	if h.kind == frameData {
		return l.beginData(h, data)
	}
	if len(data) < headSize+h.length {
		return l.fill()
	}
	err := l.takeFrame(h, data[headSize:headSize+h.length])
	l.in.Use(headSize + h.length)
	if l.block.id == 0 {
		l.since = time.Time{}
	}
	return err
}

// takeFrame handles a whole frame other than DATA.
func (l *link) takeFrame(h frameHead, p []byte) error {
	if err := l.role.count(h); err != nil {
		return err
	}
	switch h.kind {
	case frameHeaders:
		return l.takeHeaders(h, p)
	case frameContinuation:
		if l.block.id == 0 {
			return broke(codeProtocol, "CONTINUATION without HEADERS")
		}
		return l.takeBlock(h, p)
	case framePriority:
		return l.takePriority(h, p)
	case frameReset:
		return l.takeReset(h, p)
	case frameSettings:
		return l.takeSettings(h, p)
	case framePush:
		return broke(codeProtocol, "PUSH_PROMISE is not allowed")
	case framePing:
		return l.takePing(h, p)
	case frameGoAway:
		switch {
		case h.stream != 0:
			return broke(codeProtocol, "GOAWAY of a stream")
		case len(p) < 8:
			return broke(codeFrameSize, "GOAWAY is too short")
		}
		l.role.goAway(binary.BigEndian.Uint32(p)&maxWindow, code(binary.BigEndian.Uint32(p[4:])))
	case frameWindow:
		return l.takeWindow(h, p)
	}
	return nil // others are ignored (RFC 9113, 4.1)
}

// unpad takes padding off.
func unpad(h frameHead, p []byte) ([]byte, error) {
	if !h.has(flagPadded) {
		return p, nil
	}
	if len(p) == 0 {
		return nil, broke(codeFrameSize, "a padded frame is too short")
	}
	n := int(p[0])
	if p = p[1:]; n > len(p) {
		return nil, broke(codeProtocol, "the padding is longer than the frame")
	}
	return p[:len(p)-n], nil
}

func (l *link) takeHeaders(h frameHead, p []byte) error {
	if h.stream == 0 {
		return broke(codeProtocol, "HEADERS of stream 0")
	}
	p, err := unpad(h, p)
	if err != nil {
		return err
	}
	l.block.begin(h.stream, h.has(flagEndStream), l.role.fields(h.has(flagEndStream)))
	if h.has(flagPriority) {
		if len(p) < 5 {
			return broke(codeFrameSize, "HEADERS with priority is too short")
		}
		l.block.itself = binary.BigEndian.Uint32(p)&maxWindow == h.stream
		p = p[5:]
	}
	return l.takeBlock(h, p)
}

func (l *link) takeBlock(h frameHead, p []byte) error {
	b := &l.block
	if b.bytes += len(p); b.bytes > 2*b.most {
		return broke(codeCalm, "a header block is too long")
	}
	if _, err := l.dec.Write(p); err != nil {
		return broke(codeCompression, err.Error())
	}
	if !h.has(flagEndHeaders) {
		return nil
	}
	if err := l.dec.Close(); err != nil {
		return broke(codeCompression, err.Error())
	}
	id := b.id
	b.id = 0
	if b.itself {
		b.bad = "a stream depends on itself"
	}
	return l.role.header(id, b, b.end)
}

func (l *link) takePriority(h frameHead, p []byte) error {
	switch {
	case h.stream == 0:
		return broke(codeProtocol, "PRIORITY of stream 0")
	case len(p) != 5:
		return l.streamError(h.stream, codeFrameSize, "PRIORITY must have 5 bytes")
	case binary.BigEndian.Uint32(p)&maxWindow == h.stream:
		return l.streamError(h.stream, codeProtocol, "a stream depends on itself")
	}
	return nil
}

// streamError is the error of a stream, or of the connection if the stream was never opened.
func (l *link) streamError(id uint32, c code, reason string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id > l.last {
		return broke(c, reason)
	}
	return &streamError{id, c, reason}
}

// isIdle reports whether a stream was never opened.
func (l *link) isIdle(id uint32) bool { return id > l.last || id%2 == 0 }

func (l *link) takeReset(h frameHead, p []byte) error {
	switch {
	case h.stream == 0:
		return broke(codeProtocol, "RST_STREAM of stream 0")
	case len(p) != 4:
		return broke(codeFrameSize, "RST_STREAM must have 4 bytes")
	}
	l.mu.Lock()
	if l.isIdle(h.stream) {
		l.mu.Unlock()
		return broke(codeProtocol, "RST_STREAM of an idle stream")
	}
	s := l.streams[h.stream]
	if s != nil {
		s.endLocked(&resetError{code(binary.BigEndian.Uint32(p))})
		l.wake(s)
	}
	l.mu.Unlock()
	if s == nil {
		return nil
	}
	l.role.ended(s)
	return l.role.wasReset(s)
}

func (l *link) takeSettings(h frameHead, p []byte) error {
	switch {
	case h.stream != 0:
		return broke(codeProtocol, "SETTINGS of a stream")
	case h.has(flagAck) && len(p) > 0, len(p)%6 != 0:
		return broke(codeFrameSize, "SETTINGS has a wrong length")
	case h.has(flagAck):
		return nil
	}
	l.began = true
	for ; len(p) > 0; p = p[6:] {
		if err := l.takeSetting(setting{binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])}); err != nil {
			return err
		}
	}
	l.out.control(func(b []byte) []byte { return appendHead(b, 0, frameSettings, flagAck, 0) })
	return nil
}

func (l *link) takeSetting(s setting) error {
	switch s.id {
	case settingTableSize:
		l.out.tableSize(s.value)
	case settingPush:
		if s.value > 1 {
			return broke(codeProtocol, "ENABLE_PUSH must be 0 or 1")
		}
	case settingWindow:
		if s.value > maxWindow {
			return broke(codeFlowControl, "INITIAL_WINDOW_SIZE is too large")
		}
		return l.changeWindows(int64(s.value))
	case settingFrame:
		if s.value < maxFrame || s.value >= 1<<24 {
			return broke(codeProtocol, "MAX_FRAME_SIZE is out of range")
		}
	default:
		l.role.setting(s)
	}
	return nil
}

// changeWindows changes the windows of all streams (RFC 9113, 6.9.2).
func (l *link) changeWindows(first int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	more := first - l.first
	l.first = first
	for _, s := range l.streams {
		if s.window += more; s.window > maxWindow {
			return broke(codeFlowControl, "the window of a stream is too large")
		}
		l.wake(s)
	}
	return nil
}

func (l *link) takePing(h frameHead, p []byte) error {
	switch {
	case h.stream != 0:
		return broke(codeProtocol, "PING of a stream")
	case len(p) != 8:
		return broke(codeFrameSize, "PING must have 8 bytes")
	case h.has(flagAck):
		l.role.pong()
		return nil
	}
	l.out.control(func(b []byte) []byte { return appendPing(b, flagAck, p) })
	return nil
}

func (l *link) takeWindow(h frameHead, p []byte) error {
	if len(p) != 4 {
		return broke(codeFrameSize, "WINDOW_UPDATE must have 4 bytes")
	}
	n := int64(binary.BigEndian.Uint32(p) & maxWindow)
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.stream == 0 {
		switch l.window += n; {
		case n == 0:
			return broke(codeProtocol, "a window update of 0")
		case l.window > maxWindow:
			return broke(codeFlowControl, "the window of the connection is too large")
		}
		for _, s := range l.streams {
			if s.waits {
				l.wake(s)
			}
		}
		return nil
	}
	if l.isIdle(h.stream) {
		return broke(codeProtocol, "a window update of an idle stream")
	}
	s := l.streams[h.stream]
	if s == nil {
		return nil
	}
	switch s.window += n; {
	case n == 0:
		return &streamError{h.stream, codeProtocol, "a window update of 0"}
	case s.window > maxWindow:
		return &streamError{h.stream, codeFlowControl, "the window of a stream is too large"}
	}
	l.wake(s)
	return nil
}

// beginData begins to read a frame of a body.
func (l *link) beginData(h frameHead, data []byte) error {
	n, padding := headSize, 0
	if h.stream == 0 {
		return broke(codeProtocol, "DATA of stream 0")
	}
	if h.has(flagPadded) {
		if h.length == 0 {
			return broke(codeFrameSize, "a padded frame is too short")
		}
		if n++; len(data) < n {
			return l.fill()
		}
		if padding = int(data[headSize]); padding > h.length-1 {
			return broke(codeProtocol, "the padding is longer than the frame")
		}
	}
	if err := l.role.count(h); err != nil {
		return err
	}
	l.in.Use(n)
	l.within, l.content, l.padding = true, h.length-padding-(n-headSize), padding
	err := l.admitData(h)
	if l.content+l.padding == 0 {
		l.endData()
	}
	return err
}

// admitData finds the stream of a frame of a body, and checks the windows.
func (l *link) admitData(h frameHead) error {
	n := int64(h.length)
	l.to = nil
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.room -= n; l.room < 0 {
		return broke(codeFlowControl, "more DATA than the window of the connection")
	}
	s := l.streams[h.stream]
	var err error
	switch {
	case s == nil && l.isIdle(h.stream):
		return broke(codeProtocol, "DATA of an idle stream")
	case s == nil:
		l.mu.Unlock()
		err = l.role.late(h.stream, frameData)
		l.mu.Lock()
	case s.ended:
		err = &streamError{h.stream, codeClosed, "DATA after the end"}
	case s.room < n:
		err = &streamError{h.stream, codeFlowControl, "more DATA than the window of the stream"}
	case s.left >= 0 && int64(l.content) > s.left:
		err = &streamError{h.stream, codeProtocol, "more DATA than Content-Length says"}
	default:
		s.room -= n
		l.to = s
		s.ackLocked(n - int64(l.content)) // padding is dropped
		return nil
	}
	l.ackLocked(n)
	return err
}

// largeReads is how many pieces of the largest size are being filled: there may be thousands of slow clients.
var largeReads atomic.Int64

const maxLargeReads = 64

// readContent reads a piece of the frame of a body.
func (l *link) readContent(data []byte) error {
	if len(data) == 0 {
		if l.to == nil || l.content < 4<<10 || largeReads.Add(1) > maxLargeReads {
			if l.to != nil && l.content >= 4<<10 {
				largeReads.Add(-1)
			}
			return l.fill()
		}
		defer largeReads.Add(-1)
		return l.readLarge()
	}
	n := min(len(data), l.content)
	err := l.addContent(n, func(s *stream) { s.got.add(data[:n]) })
	k := min(len(data)-n, l.padding)
	l.padding -= k
	l.in.Use(n + k)
	if l.content+l.padding == 0 {
		l.endData()
	}
	return err
}

// readLarge reads from the connection without another copy.
func (l *link) readLarge() error {
	p := newPiece(maxFrame)
	err := l.await(func() (err error) {
		if p.to, err = l.in.Read(p.b[:l.content]); p.to > 0 {
			return nil
		}
		return err
	})
	if err != nil {
		p.free()
		return err
	}
	added := false
	err = l.addContent(p.to, func(s *stream) {
		added = true
		s.got.append(p)
	})
	if !added {
		p.free()
	}
	if l.content+l.padding == 0 {
		l.endData()
	}
	return err
}

// addContent gives n bytes to the stream of the frame.
func (l *link) addContent(n int, add func(s *stream)) error {
	l.content -= n
	s := l.to
	if s == nil || n == 0 {
		return nil
	}
	if err := l.role.received(n); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.dropsLocked() {
		l.role.read(n)
		s.ackLocked(int64(n))
		return nil
	}
	if s.left > 0 {
		s.left -= int64(n)
	}
	add(s)
	l.wake(s)
	return nil
}

// endData ends a frame of a body.
func (l *link) endData() {
	l.within, l.since = false, time.Time{}
	if s := l.to; s != nil && l.frame.has(flagEndStream) {
		l.mu.Lock()
		s.ended = true
		l.wake(s)
		l.mu.Unlock()
	}
	l.to = nil
}

// ackLocked lets the other side send n more bytes of bodies, as soon as it is worth a frame.
func (l *link) ackLocked(n int64) {
	if l.unacked += n; l.unacked < l.connRoom/4 {
		return
	}
	n, l.unacked = l.unacked, 0
	l.room += n
	l.out.control(func(b []byte) []byte { return appendWindow(b, 0, n) })
}

// reset resets a stream because of what the other side did.
func (l *link) reset(e *streamError) error {
	l.mu.Lock()
	s := l.streams[e.stream]
	if s != nil {
		s.endLocked(e)
		l.wake(s)
	}
	l.sendResetLocked(e.stream, e.code)
	l.mu.Unlock()
	if s != nil {
		l.role.ended(s)
	}
	return l.role.resets(e.code)
}

func (l *link) sendResetLocked(id uint32, c code) {
	l.resetIDs[id/2%uint32(len(l.resetIDs))] = id
	l.out.control(func(b []byte) []byte { return appendReset(b, id, c) })
}

// end ends all streams with the connection.
func (l *link) end(err error) {
	l.mu.Lock()
	l.err = err
	var all []*stream
	for _, s := range l.streams {
		all = append(all, s)
		s.endLocked(err)
	}
	l.mu.Unlock()
	l.out.fail(err)
	for _, s := range all {
		s.news.Broadcast()
		l.role.ended(s)
	}
	for _, s := range l.batch {
		if s.news.Broadcast(); !s.started { // and never will be
			s.drop()
		}
	}
	l.batch = nil
	l.in.Free()
}
