package gateway

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// http2Guard follows the frames of an HTTP/2 connection in both directions, by their heads alone, and cuts off a client
// that makes much work and has little use of it. net/http bounds what is under way at one time, not how often it begins
// and ends (as of Go 1.26), so that these could go on without end:
//
//   - rapid reset: streams that are opened and reset at once (CVE-2023-44487), or that the client makes the server
//     reset by breaking rules (MadeYouReset, CVE-2025-8671);
//   - floods of frames that carry nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA and CONTINUATION
//     (CVE-2019-9512 and after, CVE-2024-27316);
//   - a frame or a header block that comes in drops;
//   - streams whose answers the client asked for and does not take.
//
// Each connection has two budgets, see [budget]. Whoever has spent one gets GOAWAY with ENHANCE_YOUR_CALM and is
// closed.
type http2Guard struct {
	conn *conn

	// Of the reader.
	in    frameHeads
	block bool      // a header block is not whole
	since time.Time // when the frame or block began that is not whole; zero: there is none
	armed bool      // the connection has a deadline for reading

	reads sync.Mutex // guards the deadline for reading
	over  bool       // nothing is read any more for the server; the deadline is not the reader's now

	mu     sync.Mutex // locked before reads when both are
	out    frameHeads
	last   uint32               // the newest stream
	opened [recentStreams]int64 // when, in Unix nanoseconds, by half of the stream's number
	spare  budget               // for frames that carry nothing
	resets budget               // for streams that end early
	cut    bool
}

// The budgets of a connection. What a client that uses its connection needs is paid for by that use: gRPC pings and
// grants windows as it reads, browsers give priorities with each request and cancel some.
const (
	spareFrames, sparePerSecond    = 500, 100
	earlyResets, resetsPerSecond   = 200, 50
	earlyTime                      = time.Second // a stream that lived for longer may be reset at no cost
	recentStreams                  = 128
	sparePerAnswer, sparePerUpload = 3, 1 // frames earned with each frame of an answer and of a body
	stallPrice                     = 20   // early resets that a stream costs whose answer is not taken
)

// budget is spent by offences. It is earned back by use, and slowly by time.
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

var errCut = errors.New("the client was cut off")

func newHTTP2Guard(c *conn) *http2Guard {
	now := time.Now().UnixNano()
	g := &http2Guard{
		conn:   c,
		spare:  budget{left: spareFrames, most: spareFrames, perSecond: sparePerSecond, at: now},
		resets: budget{left: earlyResets, most: earlyResets, perSecond: resetsPerSecond, at: now},
	}
	g.in.left = len(preface)
	return g
}

// frameHeads finds the heads of frames in a stream of bytes.
type frameHeads struct {
	head  [headSize + 8]byte
	n     int // bytes of head that have come
	whole int // how many it had in the end
	left  int // bytes of payload to come
}

const headSize = 9

func (h *frameHeads) length() int      { return int(h.head[0])<<16 | int(h.head[1])<<8 | int(h.head[2]) }
func (h *frameHeads) kind() byte       { return h.head[3] }
func (h *frameHeads) flag(f byte) bool { return h.head[4]&f != 0 }
func (h *frameHeads) stream() uint32   { return binary.BigEndian.Uint32(h.head[5:]) & (1<<31 - 1) }

// code is that of a frameReset or frameGoAway that found was said of.
func (h *frameHeads) code() uint32 { return binary.BigEndian.Uint32(h.head[h.whole-4:]) }

// between reports whether no frame has begun.
func (h *frameHeads) between() bool { return h.n == 0 && h.left == 0 }

// next takes bytes up to the end of a payload or of a head, whose values can be asked for if found. The head of a frame
// with an error code has that, too.
func (h *frameHeads) next(p []byte) (rest []byte, found bool) {
	if h.left > 0 {
		k := min(h.left, len(p))
		h.left -= k
		return p[k:], false
	}
	k := copy(h.head[h.n:h.size()], p)
	h.n += k
	if h.n < h.size() {
		if k < len(p) { // only now the size is known
			return h.next(p[k:])
		}
		return nil, false
	}
	h.left, h.whole, h.n = h.length()-(h.n-headSize), h.n, 0
	return p[k:], true
}

// size is how many bytes next takes for a head, as far as is known.
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

// beforeRead bounds the time for what is not whole: a header as in HTTP/1, a body by its least rate.
func (g *http2Guard) beforeRead() {
	if g.since.IsZero() {
		if g.armed {
			g.armed = false
			g.readUntil(time.Time{})
		}
		return
	}
	limit := headerTime
	if g.in.n == 0 && g.in.kind() == frameData {
		limit += time.Duration(g.in.length()/bodyRate) * time.Second
	}
	g.armed = true
	g.readUntil(g.since.Add(limit))
}

// readUntil sets the deadline for reading, unless the client was cut off: that set one that must stand, as must the one
// of closing, while the server may be about to read.
func (g *http2Guard) readUntil(t time.Time) {
	g.reads.Lock()
	defer g.reads.Unlock()
	if !g.over {
		_ = g.conn.SetReadDeadline(t) // fails only if it is closed
	}
}

// received looks at what the client sent; false: it is cut off.
func (g *http2Guard) received(p []byte) bool {
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
			g.calm(kind)
			return false
		}
	}
	if g.in.between() && !g.block {
		g.since = time.Time{}
	}
	return true
}

// takeIn judges one frame of the client's and returns the kind of flood that it belongs to.
func (g *http2Guard) takeIn(now int64) (flood string) {
	h := &g.in
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut {
		return "late" // nothing is read any more
	}
	slot := &g.opened[h.stream()/2%recentStreams]
	switch h.kind() {
	case frameData:
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

// write passes on what the server sends, and counts what the client has of it.
func (g *http2Guard) write(p []byte) (int, error) {
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
				g.conn.conns.edge.metrics.countHTTP2("goaway") // net/http does not count every reason for it
				last = true
			}
		case frameReset:
			switch h.code() {
			case codeNoError, codeInternal, codeCancel: // no offence of the client's
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
		g.calmLocked(flood)
	case last: // net/http would go on reading for a second
		g.cutLocked()
		go func() { _ = g.conn.Close() }() // it lingers
	}
	return n, err
}

// stalled says that the client did not take an answer.
func (g *http2Guard) stalled() {
	g.conn.conns.edge.metrics.countHTTP2("stalled_stream")
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.cut && !g.resets.spend(time.Now().UnixNano(), stallPrice) {
		g.calmLocked("stall_flood")
	}
}

// calm sends the client the reason why it is cut off. If the server is just writing, there is no place for that between
// two frames, and waiting for one would leave it to the client when.
func (g *http2Guard) calm(kind string) {
	if !g.mu.TryLock() {
		g.conn.conns.edge.metrics.countHTTP2(kind)
		_ = g.conn.Conn.Close() // it is cut off in any case
		return
	}
	defer g.mu.Unlock()
	if !g.cut {
		g.calmLocked(kind)
	}
}

func (g *http2Guard) calmLocked(kind string) {
	g.conn.conns.edge.metrics.countHTTP2(kind)
	if g.out.between() {
		frame := [headSize + 8]byte{2: 8, 3: frameGoAway}
		binary.BigEndian.PutUint32(frame[headSize:], g.last)
		binary.BigEndian.PutUint32(frame[headSize+4:], codeCalm)
		_, _ = g.conn.Conn.Write(frame[:]) // it is cut off in any case
	}
	g.cutLocked()
}

// cutLocked has the server close the connection.
func (g *http2Guard) cutLocked() {
	g.cut = true
	g.reads.Lock()
	defer g.reads.Unlock()
	g.over = true
	_ = g.conn.SetReadDeadline(longAgo) // so that the server notices
}

func (g *http2Guard) isCut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cut
}
