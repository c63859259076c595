package origin

import (
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Shares divides the places of one origin, so that one URL that does not respond, or one client with many connections,
// leaves places to all others. A URL is counted by its route and template, a client by its address. Both are hashed:
// who has the same number as somebody else shares the places, too.
//
// A URL may hold four times and a client twice as many places as are free. These are the dynamic thresholds by which a
// switch divides its memory (Choudhury and Hahne, 1998): alone, a URL gets 4/5 of the limit and a client 2/3, and the
// more others there are, the less. Who holds less than the average finds a place until the limit is reached. Where all
// requests are for one URL, or of one client, as behind a proxy that is not trusted, it gets 9/10: others may come.
type Shares struct {
	base           time.Time // the origin of all times below
	seed           uint32
	paths, clients counts
	// responded has for each URL when a request last got a response; 0: never. lastResponse is the latest of all.
	responded    [slots]atomic.Int64
	lastResponse atomic.Int64
}

// slots is how many numbers there are. More cost memory, fewer let more strangers share a number.
const slots = 2048

// kinds are the names of kinds of requests.
var kinds = func() (names [256]string) {
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	return names
}()

// counts has for each number how many requests hold a place.
type counts struct {
	held    [slots]atomic.Int32
	all     atomic.Int32 // the sum of held
	holders atomic.Int32 // how many of held are not 0
	last    atomic.Int32 // the number of the last request, plus one; 0: there was none
	differs atomic.Int64 // when a request had another number than the one before; 0: never
}

// othersFor is how long somebody who sent a request is one of those to leave places to.
const othersFor = 10 * time.Second

// take counts a request and reports whether there is a place for it.
func (c *counts) take(number uint16, factor, free float64, now int64) bool {
	if last := c.last.Swap(int32(number) + 1); last != 0 && last != int32(number)+1 {
		c.differs.Store(now)
	}
	if differs := c.differs.Load(); differs == 0 || now-differs > int64(othersFor) {
		factor = aloneFactor
	}
	n := c.held[number].Add(1)
	all, holders := c.all.Add(1), c.holders.Load()
	if n == 1 {
		holders = c.holders.Add(1)
	}
	// Who holds less than the average is not the one who takes the places of others.
	if float64(n-1) < factor*free || (n-1)*holders < all-1 {
		return true
	}
	c.release(number)
	return false
}

func (c *counts) release(number uint16) {
	if c.held[number].Add(-1) == 0 {
		c.holders.Add(-1)
	}
	c.all.Add(-1)
}

const (
	pathFactor   = 4
	aloneFactor  = 9
	clientFactor = 2 // less, so that one client does not use up what is left for others of the same URL
)

// Share is the part of one request in the shares of its origin. The zero value holds nothing.
type Share struct {
	of           *Shares
	path, client uint16
	start        int64
	held         bool
}

// Take takes a place. Free is how many there are. It returns what has too many already: "path", "client", or "".
func (s *Share) Take(free float64) string {
	if !s.of.paths.take(s.path, pathFactor, free, s.start) {
		return "path"
	}
	if !s.of.clients.take(s.client, clientFactor, free, s.start) {
		s.of.paths.release(s.path)
		return "client"
	}
	s.held = true
	return ""
}

// Release gives the place back. It may be called more than once.
func (s *Share) Release() {
	if s.held {
		s.held = false
		s.of.paths.release(s.path)
		s.of.clients.release(s.client)
	}
}

// Responded takes note that the request got a response.
func (s *Share) Responded() {
	if s.of == nil {
		return
	}
	now := s.of.now()
	s.of.lastResponse.Store(now)
	s.of.responded[s.path].Store(now)
}

// OneURL reports whether a failure is that of one URL: others got responses since the request began, so the service can
// be reached, and nobody got one for its URL.
func (s *Share) OneURL() bool {
	return s.of != nil && s.of.lastResponse.Load() > s.start && s.of.responded[s.path].Load() <= s.start
}

func (s *Shares) now() int64 { return int64(max(1, time.Since(s.base))) }

// Of returns the share of a request of a client for a path of a route.
func (s *Shares) Of(route, path, client string) Share {
	return Share{of: s, path: hashPath(s.seed, route, path), client: hashAddr(s.seed, client), start: s.now()}
}

// Kind names the kind of request for the limiter: how long requests for one URL take says nothing about others.
func (s *Share) Kind() string { return kinds[int(s.path)%len(kinds)] }

// maxWords is how many segments of a path tell one template from another.
const maxWords = 4

// hashPath hashes a route and the template of a path. Only the first segments count, and those that may be values, such
// as ids and names of files, count as one.
func hashPath(seed uint32, route, path string) uint16 {
	h := hashText(seed, route)
	for range maxWords {
		var segment string
		segment, path, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
		if !isWord(segment) {
			segment = "*"
		}
		h = hashText(h, segment)
		if path == "" {
			break
		}
	}
	return fold(h)
}

// isWord reports whether a segment is a word of the site's own, not a value.
func isWord(segment string) bool {
	for i := range len(segment) {
		if c := segment[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return len(segment) <= 24
}

// hashAddr hashes an address. All addresses of an IPv6 network of 64 bits count as one: a client has that many. It is
// not clientKey, because with FNV-1a addresses that differ in one digit never share one of the few slots.
func hashAddr(seed uint32, addr string) uint16 {
	if a, err := netip.ParseAddr(addr); err == nil && a.Is6() && !a.Is4In6() {
		b := a.As16()
		h := seed
		for _, c := range b[:8] {
			h = (h ^ uint32(c)) * 16777619
		}
		return fold(h)
	}
	return fold(hashText(seed, addr))
}

// hashText is FNV-1a, with an end so that "ab", "c" and "a", "bc" differ.
func hashText(h uint32, text string) uint32 {
	for i := range len(text) {
		h = (h ^ uint32(text[i])) * 16777619
	}
	return (h ^ '/') * 16777619
}

func fold(h uint32) uint16 { return uint16((h ^ h>>11 ^ h>>22) % slots) }
