package http2

import "sync"

// pieces is what was received of a body and not read yet. Its memory comes from pools, in pieces as large as what
// comes, so that nothing is copied when it grows.
type pieces struct {
	first, last *piece
	n           int // bytes
}

type piece struct {
	next     *piece
	from, to int
	b        []byte
}

// piecePools has pieces of three sizes: for a message, for a read, and for the largest frame.
var piecePools = [...]struct {
	size int
	pool sync.Pool
}{{size: 1 << 10}, {size: 4 << 10}, {size: maxFrame}}

func newPiece(n int) *piece {
	for i := range piecePools {
		if p := &piecePools[i]; n <= p.size {
			if got, ok := p.pool.Get().(*piece); ok {
				return got
			}
			return &piece{b: make([]byte, p.size)}
		}
	}
	return &piece{b: make([]byte, n)}
}

func (p *piece) free() {
	p.next, p.from, p.to = nil, 0, 0
	for i := range piecePools {
		if len(p.b) == piecePools[i].size {
			piecePools[i].pool.Put(p)
		}
	}
}

// room returns memory for at least one and at most n bytes that are to be added; see added.
func (s *pieces) room(n int) []byte {
	if s.last == nil || s.last.to == len(s.last.b) {
		p := newPiece(n)
		if s.last == nil {
			s.first = p
		} else {
			s.last.next = p
		}
		s.last = p
	}
	b := s.last.b[s.last.to:]
	return b[:min(n, len(b))]
}

// added says that the first n bytes of room were filled.
func (s *pieces) added(n int) {
	s.last.to += n
	s.n += n
}

// add copies p.
func (s *pieces) add(p []byte) {
	for len(p) > 0 {
		n := copy(s.room(len(p)), p)
		s.added(n)
		p = p[n:]
	}
}

// read moves bytes to p.
func (s *pieces) read(p []byte) (n int) {
	for n < len(p) && s.first != nil {
		f := s.first
		k := copy(p[n:], f.b[f.from:f.to])
		n += k
		if f.from += k; f.from < f.to {
			break
		}
		if s.first = f.next; s.first == nil {
			s.last = nil
		}
		f.free()
	}
	s.n -= n
	return n
}

// drop drops everything, and returns how much that was.
func (s *pieces) drop() (n int) {
	n = s.n
	for f := s.first; f != nil; {
		next := f.next
		f.free()
		f = next
	}
	*s = pieces{}
	return n
}

// append takes a piece whose bytes were filled by its caller.
func (s *pieces) append(p *piece) {
	if s.last == nil {
		s.first = p
	} else {
		s.last.next = p
	}
	s.last = p
	s.n += p.to
}
