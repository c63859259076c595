package http2

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// guard reads the frame headers of an HTTP/2 connection in both directions and disconnects a client that floods
// it. net/http limits how many streams are open at the same time, but not how often streams begin and end (as of Go
// 1.26). So these attacks are limited here:
//
//   - rapid reset: streams that are opened and reset at once (CVE-2023-44487), or that the client makes the server
//     reset by breaking rules (MadeYouReset, CVE-2025-8671);
//   - floods of frames that carry nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA and CONTINUATION
//     (CVE-2019-9512 and after, CVE-2024-27316);
//   - a frame or a header block that is sent a few bytes at a time;
//   - streams whose responses the client does not read;
//   - bodies that nobody reads, when they use up the memory of the process (see Options.Receive).
//
// Each connection has two budgets, see [budget]. A client that has spent one gets GOAWAY with ENHANCE_YOUR_CALM, and
// the connection is closed.
type guard struct {
	conn *conn

	// Used by the reader only.
	in    frameHeads
	block bool      // a header block is not complete
	since time.Time // start of the incomplete frame or block; zero: there is none
	armed bool      // the connection has a deadline for reading

	reads sync.Mutex // guards the deadline for reading
	over  bool       // the client is disconnected: the reader must not change the deadline any more

	mu     sync.Mutex // locked before reads when both are
	out    frameHeads
	last   uint32               // the newest stream
	opened [recentStreams]int64 // opening times in Unix nanoseconds, by half of the stream's number
	spare  budget               // for frames that carry nothing
	resets budget               // for streams that end early
	cut    bool
}

// The budgets of a connection. Normal use earns back what it spends: gRPC pings and updates windows as it reads,
// browsers send priorities with each request and cancel some requests.
const (
	spareFrames, sparePerSecond    = 500, 100
	earlyResets, resetsPerSecond   = 200, 50
	earlyTime                      = time.Second // a stream that was open for longer is reset without cost
	recentStreams                  = 128
	sparePerAnswer, sparePerUpload = 3, 1 // frames earned with each frame of an answer and of a body
	stallPrice                     = 20   // early resets that a stream with an unread response costs
)

// budget is spent by frames without use. It is earned back by use, and slowly with time.
type budget struct {
	left, most int64
	perSecond  int64
	at         int64 // Unix nanoseconds up to which time was counted
}

func (b *budget) earn(n int64) { b.left = min(b.most, b.left+n) }

func (b *budget) spend(now, n int64) (ok bool) {
	if gain := (now - b.at) * b.perSecond / int64(time.Second); gain > 0 {
		b.earn(gain)
		b.at = now
	}
	b.left -= n
	return b.left >= 0
}

// Types and flags of frames (RFC 9113, 6), and codes of errors.
const (
	frameData, frameHeaders, frameReset, frameGoAway, frameContinuation = 0x0, 0x1, 0x3, 0x7, 0x9

	flagEndStream, flagEndHeaders = 0x1, 0x4

	codeNoError, codeInternal, codeCancel, codeCalm = 0x0, 0x2, 0x8, 0xb
)

var errCut = errors.New("the client was disconnected")

func newGuard(c *conn) *guard {
	now := time.Now().UnixNano()
	g := &guard{
		conn:   c,
		spare:  budget{left: spareFrames, most: spareFrames, perSecond: sparePerSecond, at: now},
		resets: budget{left: earlyResets, most: earlyResets, perSecond: resetsPerSecond, at: now},
	}
	g.in.left = len(preface)
	return g
}

// frameHeads finds the frame headers in a stream of bytes.
type frameHeads struct {
	head  [headSize + 8]byte
	n     int // bytes of head so far
	whole int // size of the complete head
	left  int // bytes of payload that are still to come
}

const headSize = 9

func (h *frameHeads) length() int      { return int(h.head[0])<<16 | int(h.head[1])<<8 | int(h.head[2]) }
func (h *frameHeads) kind() byte       { return h.head[3] }
func (h *frameHeads) flag(f byte) bool { return h.head[4]&f != 0 }
func (h *frameHeads) stream() uint32   { return binary.BigEndian.Uint32(h.head[5:]) & (1<<31 - 1) }

// code is the error code of a frameReset or frameGoAway, after next has returned found.
func (h *frameHeads) code() uint32 { return binary.BigEndian.Uint32(h.head[h.whole-4:]) }

// between reports whether no frame has begun.
func (h *frameHeads) between() bool { return h.n == 0 && h.left == 0 }

// next consumes bytes up to the end of a payload or of a head. found: a head is complete, and its methods return its
// values. The head of a frame with an error code includes the code.
func (h *frameHeads) next(p []byte) (rest []byte, found bool) {
	if h.left > 0 {
		k := min(h.left, len(p))
		h.left -= k
		return p[k:], false
	}
	k := copy(h.head[h.n:h.size()], p)
	h.n += k
	if h.n < h.size() {
		if k < len(p) { // the kind is known now, and so is the size
			return h.next(p[k:])
		}
		return nil, false
	}
	h.left, h.whole, h.n = h.length()-(h.n-headSize), h.n, 0
	return p[k:], true
}

// size is the number of bytes of the head. It may grow when the kind of the frame is known.
func (h *frameHeads) size() int {
	switch {
	case h.n < headSize:
	case h.kind() == frameReset && h.length() >= 4:
		return headSize + 4
	case h.kind() == frameGoAway && h.length() >= 8:
		return headSize + 8
	}
	return headSize
}

// beforeRead limits the time for an incomplete frame or header block: a header as in HTTP/1, a body by bodyRate.
func (g *guard) beforeRead() {
	if g.since.IsZero() {
		if g.armed {
			g.armed = false
			g.readUntil(time.Time{})
		}
		return
	}
	limit := headTime
	if g.in.n == 0 && g.in.kind() == frameData {
		limit += time.Duration(g.in.length()/bodyRate) * time.Second
	}
	g.armed = true
	g.readUntil(g.since.Add(limit))
}

// readUntil sets the deadline for reading, unless the client was disconnected. The deadline that disconnecting or
// closing has set must stay, because the server may be about to read.
func (g *guard) readUntil(t time.Time) {
	g.reads.Lock()
	defer g.reads.Unlock()
	if !g.over {
		_ = g.conn.SetReadDeadline(t) // fails only if it is closed
	}
}

// received checks what the client has sent; false: the client is disconnected.
func (g *guard) received(p []byte) bool {
	now := time.Now()
	for len(p) > 0 {
		if g.in.between() && !g.block {
			g.since = now
		}
		rest, found := g.in.next(p)
		p = rest
		if !found {
			continue
		}
		if kind := g.takeIn(now.UnixNano()); kind != "" {
			g.disconnect(kind)
			return false
		}
	}
	if g.in.between() && !g.block {
		g.since = time.Time{}
	}
	return true
}

// takeIn counts one frame of the client and returns the kind of flood that it belongs to. Empty: none.
func (g *guard) takeIn(now int64) (flood string) {
	h := &g.in
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut {
		return "late" // nothing is read any more
	}
	slot := &g.opened[h.stream()/2%recentStreams]
	switch h.kind() {
	case frameData:
		if !g.conn.server.opts.Receive(g.conn.Conn, h.length()) {
			return "unread_bodies"
		}
		if h.length() > 0 || h.flag(flagEndStream) {
			g.spare.earn(sparePerUpload)
			return ""
		}
	case frameHeaders:
		g.block = !h.flag(flagEndHeaders)
		if id := h.stream(); id > g.last {
			g.last, *slot = id, now
		}
		return ""
	case frameContinuation:
		g.block = g.block && !h.flag(flagEndHeaders)
	case frameReset:
		early := now-*slot < int64(earlyTime)
		*slot = 0
		if early && !g.resets.spend(now, 1) {
			return "reset_flood"
		}
	}
	if !g.spare.spend(now, 1) {
		return "frame_flood"
	}
	return ""
}

// write writes to the client, and counts the frames of responses and resets.
func (g *guard) write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut {
		return 0, errCut
	}
	flood, last := "", false
	for rest := p; len(rest) > 0; {
		var found bool
		h := &g.out
		if rest, found = h.next(rest); !found {
			continue
		}
		switch h.kind() {
		case frameData, frameHeaders:
			g.spare.earn(sparePerAnswer)
			if h.flag(flagEndStream) {
				g.resets.earn(1)
			}
		case frameGoAway:
			if h.whole > headSize && h.code() != codeNoError {
				g.conn.server.opts.Count("goaway") // net/http does not count all of them
				last = true
			}
		case frameReset:
			switch h.code() {
			case codeNoError, codeInternal, codeCancel: // not caused by the client
			default:
				if !g.resets.spend(time.Now().UnixNano(), 1) {
					flood = "reset_flood"
				}
			}
		}
	}
	n, err := g.conn.Conn.Write(p)
	switch {
	case err != nil:
	case flood != "":
		g.disconnectLocked(flood)
	case last: // net/http would continue to read for a second
		g.cutLocked()
		go func() { _ = g.conn.Close() }() // it lingers
	}
	return n, err
}

// stalled counts a response that the client did not read in time.
func (g *guard) stalled() {
	g.conn.server.opts.Count("stalled_stream")
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.cut && !g.resets.spend(time.Now().UnixNano(), stallPrice) {
		g.disconnectLocked("stall_flood")
	}
}

// disconnect sends GOAWAY to the client and ends the connection. If the server is writing, GOAWAY is not sent: it must
// stand between two frames, and the client could delay the end of the write.
func (g *guard) disconnect(kind string) {
	if !g.mu.TryLock() {
		g.conn.server.opts.Count(kind)
		g.conn.Cut() // the client is disconnected in any case
		return
	}
	defer g.mu.Unlock()
	if !g.cut {
		g.disconnectLocked(kind)
	}
}

func (g *guard) disconnectLocked(kind string) {
	g.conn.server.opts.Count(kind)
	if g.out.between() {
		frame := [headSize + 8]byte{2: 8, 3: frameGoAway}
		binary.BigEndian.PutUint32(frame[headSize:], g.last)
		binary.BigEndian.PutUint32(frame[headSize+4:], codeCalm)
		_, _ = g.conn.Conn.Write(frame[:]) // the client is disconnected in any case
	}
	g.cutLocked()
}

// cutLocked makes the server close the connection.
func (g *guard) cutLocked() {
	g.cut = true
	g.reads.Lock()
	defer g.reads.Unlock()
	g.over = true
	_ = g.conn.SetReadDeadline(longAgo) // so that the server notices
}

func (g *guard) isCut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cut
}
