package gateway

import (
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// memory keeps the edge within the memory that it may use: clients can open connections until the kernel ends the
// process, and then all of them get nothing.
type memory struct {
	limit int64 // bytes; 0: there is none
	log   *slog.Logger

	unread atomic.Int64 // bytes of bodies on HTTP/2 connections that were received and not read; see conn.unread

	tight   atomic.Bool
	checked atomic.Int64 // when used was last read, in Unix nanoseconds
	mu      sync.Mutex   // held while it is read
	samples []rtmetrics.Sample
}

const (
	// ofMemory is the part of the limit that live objects and stacks may take. The rest is for what is garbage until
	// it is collected, and for the buffers of the kernel, which a container's limit includes.
	ofMemory = 0.7
	// memoryOfEdge is what the edge uses without connections.
	memoryOfEdge = 24 << 20
	// memoryOfConn is what a connection of HTTP/1 with a request costs, with its connection to the origin. Measured: 22
	// KiB while the origin works, 23 KiB for a body that comes slowly, 25 KiB for a response that is read slowly. About
	// half of it are stacks. One that is idle costs 4 KiB and a WebSocket 9 KiB, but all may work at the same time. Large
	// buffers and bodies that are kept have limits of their own, and tight is for what all this does not foresee.
	memoryOfConn = 26 << 10
	// memoryOfHTTP2 is how much more a connection of HTTP/2 costs when it is idle, which is 35 KiB in all.
	memoryOfHTTP2 = 10 << 10
	memoryOfTLS   = 12 << 10 // more for a connection over TLS: keys, and a buffer for a record
	minConns      = 100
	memoryEvery   = 100 * time.Millisecond

	// A client of HTTP/2 may send bodies before anybody reads them: 1 MiB on each connection. All together may use this
	// part of the limit, and each connection at least minUnread, which is the smallest window that the protocol has.
	unreadOfMemory = 0.25
	minUnread      = 64 << 10
)

func newMemory(limit int64, log *slog.Logger) *memory {
	return &memory{limit: limit, log: log, samples: []rtmetrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"},
	}}
}

// receive counts bytes of bodies that a connection of HTTP/2 has received; false: there is no memory for them. The
// windows of HTTP/2 cannot limit this, because they are given for each connection and stream before it is known who
// uses them.
func (m *memory) receive(c *conn, n int) bool {
	all, own := m.unread.Add(int64(n)), c.unread.Add(int64(n))
	if c.closed.Load() {
		m.forget(c) // Close has done so, perhaps before the lines above
	}
	return m.limit == 0 || own <= minUnread || float64(all) <= unreadOfMemory*float64(m.limit)
}

// read counts bytes that were read from a body. What was received and never read, because a request ended before, is
// forgotten when the connection has no request in progress.
func (m *memory) read(c *conn, n int) {
	for {
		own := c.unread.Load()
		k := min(own, int64(n))
		if k <= 0 { // it was forgotten
			return
		}
		if c.unread.CompareAndSwap(own, own-k) {
			m.unread.Add(-k)
			return
		}
	}
}

func (m *memory) forget(c *conn) { m.unread.Add(-c.unread.Swap(0)) }

// maxConns returns how many connections without TLS there may be; math.MaxInt64 if there is no limit.
func (m *memory) maxConns() int64 {
	if m.limit == 0 {
		return math.MaxInt64
	}
	return max(minConns, m.forConns()/memoryOfConn)
}

// forConns returns how many bytes of the limit connections may use.
func (m *memory) forConns() int64 { return int64(ofMemory*float64(m.limit)) - memoryOfEdge }

// hasRoom reports whether there may be this many connections, which use this many bytes.
func (m *memory) hasRoom(conns, bytes int64) bool {
	return m.limit == 0 || conns <= minConns || bytes <= m.forConns()
}

// isTight reports whether nothing more can be taken in. It looks at most every memoryEvery.
func (m *memory) isTight() bool {
	if m.limit == 0 {
		return false
	}
	now := time.Now().UnixNano()
	if now-m.checked.Load() < int64(memoryEvery) || !m.mu.TryLock() {
		return m.tight.Load()
	}
	defer m.mu.Unlock()
	m.checked.Store(now)
	rtmetrics.Read(m.samples)
	used := int64(m.samples[0].Value.Uint64() + m.samples[1].Value.Uint64())
	tight := float64(used) > ofMemory*float64(m.limit)
	if m.tight.Swap(tight) != tight {
		if tight {
			m.log.Warn("memory is short: new connections are closed and new requests are refused", "used", used,
				"limit", m.limit)
		} else {
			m.log.Info("memory is enough again", "used", used, "limit", m.limit)
		}
	}
	return tight
}

// memoryLimit returns how many bytes the process may use: GOMEMLIMIT, or the limit of its container if that is lower.
// 0: there is no limit.
func memoryLimit() int64 {
	limit := debug.SetMemoryLimit(-1) // only reads it
	for _, file := range []string{
		"/sys/fs/cgroup/memory.max",                   // cgroup v2
		"/sys/fs/cgroup/memory/memory.limit_in_bytes", // v1
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil { // else it is "max"
			limit = min(limit, n)
		}
	}
	if limit > 1<<50 { // how v1 and Go say "none"
		return 0
	}
	return limit
}
