package http2

import "net"

// Heads returns the kind, length and stream of each frame that pieces of a connection hold, and what is left over.
func Heads(pieces [][]byte) (heads [][3]int, between bool) {
	var h frameHeads
	for _, p := range pieces {
		for len(p) > 0 {
			var found bool
			if p, found = h.next(p); found {
				heads = append(heads, [3]int{int(h.kind()), h.length(), int(h.stream())})
			}
		}
	}
	return heads, h.between()
}

// NewConn is what net/http reads from and writes to.
func NewConn(c Conn, s *Server) net.Conn {
	k := &conn{Conn: c, server: s}
	k.guard = newGuard(k)
	return k
}

// Disconnect disconnects the client of a connection, as after many unread responses.
func Disconnect(c net.Conn) {
	for g := c.(*conn).guard; !g.isCut(); {
		g.stalled()
	}
}
