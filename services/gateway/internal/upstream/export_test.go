package upstream

import (
	"net/netip"
	"time"
)

// ReadResponse returns what a response to the query with an id says: the least TTL, negative for none, and the
// addresses.
func ReadResponse(query uint16, message []byte) (ttl time.Duration, v4, v6 []netip.Addr) {
	r := &responses{ttl: -1}
	r.add(query, message)
	return r.all()
}
