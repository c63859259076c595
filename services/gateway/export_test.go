package gateway

import (
	"net"
	"net/http"
	"slices"
)

// Which paths and clients share places must not differ from one run to the next: a pair does so with one seed in some
// hundred.
func init() { hashSeed = 1 }

// Refusal is the method of the request that replaces a refused one in Frame.
const Refusal = "XREFUSED"

// Frame passes pieces through framing and returns its output, where each head begins in it, and the error.
func Frame(pieces [][]byte, size int) (out []byte, heads []int, err error) {
	f := framing{refusal: Refusal}
	p := make([]byte, size)
	for {
		before := f.state
		n, want, err := f.take(p)
		if before == inHead && n > 0 && (len(heads) == 0 || heads[len(heads)-1] != len(out)) {
			heads = append(heads, len(out))
		}
		out = append(out, p[:n]...)
		switch {
		case n > 0:
		case err != nil:
			return out, heads, err
		case len(pieces) == 0:
			return out, heads, nil
		case want > 0:
			k := min(want, len(pieces[0]), size)
			out = append(out, pieces[0][:k]...)
			f.passed(k)
			pieces = rest(pieces, k)
		default:
			f.feed(pieces[0])
			pieces = rest(pieces, len(pieces[0]))
		}
	}
}

func rest(pieces [][]byte, n int) [][]byte {
	if n == len(pieces[0]) {
		return pieces[1:]
	}
	return append([][]byte{pieces[0][n:]}, slices.Clone(pieces[1:])...)
}

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

// Frames returns how many bytes of WebSocket frames pieces hold up to the end of the last whole one.
func Frames(pieces [][]byte) (whole int) {
	var f frames
	at := 0
	for _, p := range pieces {
		for len(p) > 0 {
			n := f.pass(p)
			p, at = p[n:], at+n
			if f.between() {
				whole = at
			}
		}
	}
	return whole
}

// Handler serves requests without a connection.
func Handler(e *Edge) http.Handler { return e.server.Handler }

// Limited is l with the edge's limits and checks on its connections.
func Limited(e *Edge, l net.Listener) net.Listener { return e.conns.listener(l, nil) }

// Disconnect disconnects the client of an HTTP/2 connection, as after many unread responses.
func Disconnect(c net.Conn) {
	for g := c.(*conn).http2; !g.isCut(); {
		g.stalled()
	}
}

// MarkTimedOut marks a connection as one whose client does not read.
func MarkTimedOut(c net.Conn) { c.(*conn).timedOut.Store(true) }

// OccupyHandshakes takes all places for handshakes that compute.
func OccupyHandshakes(e *Edge) (free func()) {
	places := e.conns.handshakes
	for range cap(places) {
		places <- struct{}{}
	}
	return func() {
		for range cap(places) {
			<-places
		}
	}
}
