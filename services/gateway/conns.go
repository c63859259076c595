package gateway

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// connections counts the clients' connections and checks what comes in on them.
type connections struct {
	edge *Edge
	// refusal is the method of the request that replaces a refused one. It is random, so that no client can send it.
	refusal string
	// handshakes has an element for each TLS handshake that computes.
	handshakes chan struct{}

	mu     sync.Mutex
	open   map[*conn]struct{}
	bytes  int64            // of memory that those in open use
	byPeer map[string]*peer // by address
}

// peer is an address from which there are connections.
type peer struct {
	addr     string
	conns    int          // guarded by connections.mu
	requests atomic.Int64 // under way
}

func newConnections(e *Edge) *connections {
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // never fails
	return &connections{
		edge: e, refusal: "X" + hex.EncodeToString(secret[:]), open: map[*conn]struct{}{},
		byPeer: map[string]*peer{}, handshakes: newHandshakes(),
	}
}

// listener returns l with the limits on it. over is what TLS is done with; nil: without TLS.
func (c *connections) listener(l net.Listener, over *tls.Config) net.Listener {
	return &listener{l, c, over}
}

type listener struct {
	net.Listener
	conns *connections
	tls   *tls.Config
}

// Accept returns the next connection that is within the limits. Others are closed without a response, which would cost
// CPU time under attack.
func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, limit := l.conns.add(nc, l.tls); limit != "" {
			l.conns.edge.metrics.refused.WithLabelValues(limit).Inc()
			_ = nc.Close()
		} else {
			return c, nil
		}
	}
}

func (c *connections) add(nc net.Conn, over *tls.Config) (_ *conn, limit string) {
	addr := nc.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
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
	if c.isBanned(addr) { // asked with the lock held, so that closeBanned finds the connection if this does not
		return nil, "banned"
	}
	if limit != "" && !c.closeIdleLocked() {
		return nil, limit
	}
	p := c.byPeer[addr]
	if p == nil {
		p = &peer{addr: addr}
		c.byPeer[addr] = p
	}
	if int64(p.conns) >= c.edge.settings.maxConnsClient.Get() {
		return nil, "client"
	}
	k := &conn{Conn: nc, raw: nc, size: size, conns: c, peer: p}
	if over != nil {
		k.startTLS(over)
	}
	k.setState(http.StateIdle)
	k.framing.refusal = c.refusal
	c.open[k] = struct{}{}
	c.bytes += size
	p.conns++
	c.edge.metrics.open.Set(float64(len(c.open)))
	return k, ""
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
	if k.peer.conns--; k.peer.conns == 0 {
		delete(c.byPeer, k.peer.addr)
	}
	c.edge.metrics.open.Set(float64(len(c.open)))
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

// refusalOf returns the problem of the refused request that r replaces; nil if r does not replace one.
func (c *connections) refusalOf(r *http.Request) *failure {
	if r.Method != c.refusal {
		return nil
	}
	code, err := strconv.Atoi(r.Header.Get("Status"))
	if err != nil {
		code = http.StatusBadRequest
	}
	detail := r.Header.Get("Detail")
	r.Method, r.Host = "", "" // for the log
	r.Header = http.Header{}
	return hangUp(code, "%s", detail)
}

func stack() string { return string(debug.Stack()) }
