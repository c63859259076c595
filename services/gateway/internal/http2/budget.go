package http2

import (
	"sync"
	"time"
)

// budgets limit what a client may do without end. How many streams are open at the same time is not enough: they can be
// opened and ended as often as the client likes. These attacks are limited here:
//
//   - rapid reset: streams that are opened and reset at once (CVE-2023-44487), or that the client makes the server
//     reset by breaking rules (MadeYouReset, CVE-2025-8671);
//   - floods of frames that carry nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA and CONTINUATION
//     (CVE-2019-9512 and after, CVE-2024-27316);
//   - streams whose responses the client does not read.
//
// A client that has spent a budget gets GOAWAY with ENHANCE_YOUR_CALM, and the connection is closed.
type budgets struct {
	mu     sync.Mutex
	spare  budget // for frames that carry nothing
	resets budget // for streams that end early
}

// The budgets of a connection. Normal use earns back what it spends: gRPC pings and updates windows as it reads,
// browsers send priorities with each request and cancel some requests.
const (
	spareFrames, sparePerSecond    = 500, 100
	earlyResets, resetsPerSecond   = 200, 50
	earlyTime                      = time.Second // a stream that was open for longer is reset without cost
	sparePerAnswer, sparePerUpload = 3, 1        // frames earned with each frame of a response and of a body
	stallPrice                     = 20          // early resets that a stream with an unread response costs
	stallBytes                     = 4 << 10     // smaller responses cost nothing: they keep little memory
)

func (b *budgets) init() {
	now := time.Now().UnixNano()
	b.spare = budget{left: spareFrames, most: spareFrames, perSecond: sparePerSecond, at: now}
	b.resets = budget{left: earlyResets, most: earlyResets, perSecond: resetsPerSecond, at: now}
}

// budget is spent by frames without use. It is earned back by use, and slowly with time.
type budget struct {
	left, most int64
	perSecond  int64
	at         int64 // Unix nanoseconds up to which time was counted
}

func (b *budget) earn(n int64) { b.left = min(b.most, b.left+n) }

func (b *budget) spend(n int64) (ok bool) {
	if b.left < n { // only then it matters what time has earned
		now := time.Now().UnixNano()
		b.earn(min(b.most, (now-b.at)/1000*b.perSecond/1_000_000))
		b.at = now
	}
	b.left -= n
	return b.left >= 0
}

// frame takes note of a frame of the client, other than HEADERS and useful DATA; false: they are too many.
func (b *budgets) frame() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spare.spend(1)
}

// upload takes note of DATA of the client.
func (b *budgets) upload() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spare.earn(sparePerUpload)
}

// answer takes note of a frame of a response.
func (b *budgets) answer(end bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spare.earn(sparePerAnswer)
	if end {
		b.resets.earn(1)
	}
}

// early takes note of n streams that have ended early; false: they are too many.
func (b *budgets) early(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.resets.spend(n)
}
