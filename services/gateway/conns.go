package gateway

import (
	"crypto/rand"
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

	mu     sync.Mutex
	open   map[*conn]struct{}
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
		byPeer: map[string]*peer{},
	}
}

// listener returns l with the limits on it.
func (c *connections) listener(l net.Listener) net.Listener { return &listener{l, c} }

type listener struct {
	net.Listener
	conns *connections
}

// Accept returns the next connection that is within the limits. Others are closed without a response, which would cost
// CPU time under attack.
func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, limit := l.conns.add(nc); limit != "" {
			l.conns.edge.metrics.refused.WithLabelValues(limit).Inc()
			_ = nc.Close()
		} else {
			return c, nil
		}
	}
}

func (c *connections) add(nc net.Conn) (_ *conn, limit string) {
	addr := nc.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
	}
	tight := c.edge.memory.isTight()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch open := int64(len(c.open)); {
	case tight || open >= c.edge.memory.maxConns():
		limit = "memory"
	case open >= c.edge.settings.maxConns.Get():
		limit = "all"
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
	k := &conn{Conn: nc, conns: c, peer: p}
	k.setState(http.StateIdle)
	k.framing.refusal = c.refusal
	c.open[k] = struct{}{}
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
	_ = oldest.Conn.Close() // nothing is lost
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
			_ = k.Conn.Close()
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
