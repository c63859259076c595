package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"bijou.dev/platform/pace"
	"bijou.dev/services/gateway/internal/http1"
)

// connections counts the clients' connections and checks what comes in on them.
type connections struct {
	edge *Edge
	// handshakes has an element for each TLS handshake that computes.
	handshakes chan struct{}

	mu     sync.Mutex
	open   map[*conn]struct{}
	bytes  int64            // of memory that those in open use
	byPeer map[string]*peer // by address
	empty  chan struct{}    // closed when open is empty; nil: no goroutine waits for that
}

// peer is an address from which there are connections.
type peer struct {
	addr     string
	conns    int          // guarded by connections.mu
	requests atomic.Int64 // under way
}

func newConnections(e *Edge) *connections {
	return &connections{
		edge: e, open: map[*conn]struct{}{}, byPeer: map[string]*peer{}, handshakes: newHandshakes(),
	}
}

// serve takes connections from l and answers their requests until l is closed. over is what TLS is done with; nil:
// without TLS.
func (c *connections) serve(l net.Listener, over *tls.Config) error {
	for delay := time.Duration(0); ; {
		nc, err := l.Accept()
		if err != nil {
			if c.edge.stopping.Load() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			if temporary, ok := errors.AsType[net.Error](err); !ok || !temporary.Timeout() && !isExhausted(err) {
				return fmt.Errorf("accepting a connection: %w", err)
			}
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			c.edge.log.Warn("accepting a connection failed; trying again", "error", err, "after", delay)
			pace.Sleep(context.Background(), delay)
			continue
		}
		delay = 0
		if k := c.accept(nc, over); k != nil {
			switch {
			case k.peer == nil:
				go k.serveProxied()
			case over != nil:
				go k.serveTLS()
			default:
				go k.answer(http1.Any)
			}
		}
	}
}

// isExhausted reports whether an error says that the process or the machine has no more of something, which others may
// give back.
func isExhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ECONNABORTED)
}

// accept returns a connection that is within the limits. Nil: it was closed without a response, which would cost CPU
// time under attack.
func (c *connections) accept(nc net.Conn, over *tls.Config) *conn {
	k, limit := c.add(nc, over)
	if limit != "" {
		c.edge.metrics.refused.WithLabelValues(limit).Inc()
		if limit == "proxy" && !c.edge.proxies.Load().warned.Swap(true) {
			c.edge.log.Warn("a connection was refused because its address is not in gateway.proxyProtocol; "+
				"further ones are only counted", "address", hostOf(nc.RemoteAddr()))
		}
		_ = nc.Close() // it is not served
	}
	return k
}

func (c *connections) add(nc net.Conn, over *tls.Config) (_ *conn, limit string) {
	addr, proxies := hostOf(nc.RemoteAddr()), c.proxiesOf(over != nil)
	if len(proxies) > 0 && !proxies.Has(addr) {
		return nil, "proxy"
	}
	tight, size := c.edge.memory.isTight(), int64(memoryOfConn)
	if over != nil {
		size += memoryOfTLS
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch open := int64(len(c.open)); {
	case tight || !c.edge.memory.hasRoom(open+1, c.bytes+size):
		limit = "memory"
	case open >= c.edge.settings.maxConns.Get():
		limit = "all"
	}
	// Asked with the lock held, so that closeBanned finds the connection if this does not.
	if len(proxies) == 0 && c.isBanned(addr) {
		return nil, "banned"
	}
	if limit != "" && !c.closeIdleLocked() {
		return nil, limit
	}
	k := &conn{Conn: nc, raw: nc, size: size, conns: c}
	if len(proxies) == 0 { // else the client is not known yet
		if limit := c.joinLocked(k, addr); limit != "" {
			return nil, limit
		}
	}
	if over != nil {
		k.startTLS(over)
	}
	k.idleSince.Store(time.Now().UnixNano())
	c.open[k] = struct{}{}
	c.bytes += size
	c.edge.metrics.open.Set(float64(len(c.open)))
	return k, ""
}

// grow counts a connection with more bytes of memory, and reports whether there is room for them.
func (c *connections) grow(k *conn, more int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[k]; !ok {
		return true // it was closed, which its reader notices
	}
	if !c.edge.memory.hasRoom(int64(len(c.open)), c.bytes+more) && !c.closeIdleLocked() {
		return false
	}
	k.size += more
	c.bytes += more
	return true
}

// closeIdleLocked makes room for a new connection: it closes one that is idle, and reports whether there was one.
// Without this, clients that open connections and keep them idle would keep all others out. It takes the one that has
// been idle for longest of a few, because looking at all would cost time under attack.
func (c *connections) closeIdleLocked() bool {
	var oldest *conn
	since := time.Now().Add(-minIdle).UnixNano()
	seen := 0
	for k := range c.open {
		if at := k.idleSince.Load(); at != 0 && at < since {
			oldest, since = k, at
		}
		if seen++; seen == maxSeen {
			break
		}
	}
	if oldest == nil {
		return false
	}
	c.removeLocked(oldest)
	_ = oldest.raw.Close() // nothing is lost
	c.edge.metrics.idleClosed.Inc()
	return true
}

const (
	minIdle = 100 * time.Millisecond // a client that has just connected is about to send its request
	maxSeen = 64
)

func (c *connections) remove(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(k)
}

func (c *connections) removeLocked(k *conn) {
	if _, ok := c.open[k]; !ok {
		return
	}
	delete(c.open, k)
	c.bytes -= k.size
	if p := k.peer; p != nil {
		if p.conns--; p.conns == 0 {
			delete(c.byPeer, p.addr)
		}
	}
	c.edge.metrics.open.Set(float64(len(c.open)))
	if len(c.open) == 0 && c.empty != nil {
		close(c.empty)
		c.empty = nil
	}
}

// wait returns when there are no connections, or with ctx's error.
func (c *connections) wait(ctx context.Context) error {
	c.mu.Lock()
	if len(c.open) == 0 {
		c.mu.Unlock()
		return nil
	}
	if c.empty == nil {
		c.empty = make(chan struct{})
	}
	empty := c.empty
	c.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// closeUnused closes connections on which no byte was received. Browsers open such connections in advance, and a stop
// would wait for them.
func (c *connections) closeUnused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.open {
		if !k.used.Load() {
			_ = k.raw.Close()
		}
	}
}

// closeIdle closes connections of HTTP/1 without a request in progress.
func (c *connections) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.open {
		if k.idleSince.Load() != 0 && !k.isHTTP2.Load() {
			_ = k.raw.Close() // nothing is lost
		}
	}
}

// closeAll closes all connections.
func (c *connections) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.open {
		_ = k.raw.Close() // they are not wanted any more
	}
}
