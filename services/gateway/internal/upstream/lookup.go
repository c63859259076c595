package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Limits of look-ups.
const (
	minTTL       = time.Second
	maxTTL       = 5 * time.Minute
	unknownTTL   = 30 * time.Second
	lookupTime   = 20 * time.Second // for one name, with all servers and attempts of resolv.conf
	runTime      = time.Minute      // for SRV records and all of their hosts
	maxInstances = 500              // of one target
)

// lookup looks up the instances of one name. It is for one goroutine.
type lookup struct {
	set    *Set
	target Target
	known  map[string][]netip.Addr // host -> the addresses that were found last
}

// result is what a look-up has found.
type result struct {
	addrs []netip.AddrPort // sorted, each once. Empty: the look-up did not work, and err says why.
	ttl   time.Duration    // the least of all records, unknownTTL if there was none, within minTTL and maxTTL
	err   error            // why addresses are missing, or are not confirmed
}

// run looks up the name once.
func (l *lookup) run(ctx context.Context) result {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	hosts, ttl, err := []hostPort{{l.target.host, l.target.port}}, time.Duration(-1), error(nil)
	if l.target.isSRV() {
		hosts, ttl, err = l.services(ctx)
	}
	known := map[string][]netip.Addr{}
	var addrs []netip.AddrPort
	for _, h := range hosts {
		if _, done := known[h.host]; !done {
			found, t, problem := l.addresses(ctx, h.host)
			known[h.host], ttl = found, lesser(ttl, t)
			if err == nil {
				err = problem
			}
		}
		for _, a := range known[h.host] {
			addrs = append(addrs, netip.AddrPortFrom(a, h.port))
		}
	}
	if len(addrs) == 0 {
		return result{err: err}
	}
	l.known = known
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	addrs = slices.Compact(addrs)
	if n := len(addrs); n > maxInstances {
		addrs = addrs[:maxInstances]
		err = fmt.Errorf("there are %d addresses, and only %d of them are used", n, maxInstances)
	}
	if ttl < 0 {
		ttl = unknownTTL
	}
	return result{addrs, min(max(ttl, minTTL), maxTTL), err}
}

// hostPort is a host name of a target.
type hostPort struct {
	host string
	port uint16
}

// services returns the hosts of the SRV records with the lowest number of priority. Weights are not used: the balancer
// measures which instance can do more.
func (l *lookup) services(ctx context.Context) (hosts []hostPort, ttl time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	seen := &responses{ttl: -1}
	_, records, err := l.resolver(seen).LookupSRV(ctx, "", "", l.target.host)
	for _, r := range records { // sorted by priority; with an error they are those that are valid
		// The target "." says that there is no such service (RFC 2782).
		if h := (hostPort{r.Target, r.Port}); r.Priority == records[0].Priority && r.Port != 0 && r.Target != "." &&
			!slices.Contains(hosts, h) && len(hosts) < maxInstances {
			hosts = append(hosts, h)
		}
	}
	if len(hosts) == 0 && err == nil {
		err = fmt.Errorf("the SRV records of %s have no host or no port", l.target.host)
	}
	ttl, _, _ = seen.all()
	return hosts, ttl, err
}

// addresses returns the addresses of one host. With an error they include those known before that were not confirmed.
func (l *lookup) addresses(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
	bounded, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	seen := &responses{ttl: -1}
	found, err := l.resolver(seen).LookupNetIP(bounded, "ip", host)
	ttl, v4, v6 := seen.all()
	if err != nil {
		// There may be an answer for A and none for AAAA, or the other way round. Then the addresses of the other
		// family stay as they are. Some DNS servers never answer for AAAA.
		switch known := l.known[host]; {
		case len(v4) > 0 && len(v6) == 0:
			found = append(v4, family(known, netip.Addr.Is6)...)
		case len(v6) > 0 && len(v4) == 0:
			found = append(v6, family(known, netip.Addr.Is4)...)
		default:
			return known, -1, err
		}
	}
	usable := l.usable(ctx, found)
	if len(usable) == 0 {
		return l.known[host], -1, fmt.Errorf("the addresses of %s cannot be those of a host: %v", host, found)
	}
	return usable, ttl, err
}

// family returns the addresses for which is returns true.
func family(addrs []netip.Addr, is func(netip.Addr) bool) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !is(a) })
}

// usable returns the addresses that can be those of a host: a filter of names may answer 0.0.0.0, and a connection to
// that goes to this process's own machine. If there are IPv4 and IPv6 addresses, those to which this machine has no
// route are left out, unless it has none to any of them: many containers have no IPv6, and half of the requests would
// fail first (RFC 6724 section 5, rule 1).
func (l *lookup) usable(ctx context.Context, found []netip.Addr) []netip.Addr {
	var all, routed []netip.Addr
	for _, a := range found {
		if a = a.Unmap(); isHost(a) {
			all = append(all, a)
		}
	}
	if !slices.ContainsFunc(all, netip.Addr.Is4) || !slices.ContainsFunc(all, netip.Addr.Is6) {
		return all
	}
	for _, a := range all {
		if l.hasRoute(ctx, a) {
			routed = append(routed, a)
		}
	}
	if len(routed) == 0 {
		return all
	}
	return routed
}

// hasRoute reports whether this machine has a route to an address. Connecting a UDP socket sends nothing.
func (l *lookup) hasRoute(ctx context.Context, a netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := l.set.opts.DialContext(ctx, "udp", netip.AddrPortFrom(a, 9).String()) // 9: discard
	if err == nil {
		_ = conn.Close() // it was not used
	}
	return !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) &&
		!errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EAFNOSUPPORT)
}

// resolver returns the resolver of the library, whose responses go through seen. It reads resolv.conf, hosts and
// nsswitch.conf, and makes the attempts.
//
// StrictErrors: without it, an A query that fails while AAAA works removes all IPv4 addresses, and a name of the search
// list that cannot be looked up for a moment lets the next one take its place, which may be a host of somebody else.
func (l *lookup) resolver(seen *responses) *net.Resolver {
	return &net.Resolver{
		PreferGo: true, StrictErrors: true,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			raw, err := l.set.opts.DialDNS(ctx, network, address)
			if err != nil {
				return nil, err
			}
			c := observed{Conn: raw, seen: seen}
			c.stop = context.AfterFunc(ctx, func() { _ = raw.SetDeadline(longAgo) }) // fails only if raw is closed
			// The resolver writes and reads packets if the connection is a net.PacketConn, else a stream.
			if packets, ok := raw.(net.PacketConn); ok {
				return &packetConn{c, packets}, nil
			}
			return &streamConn{c, nil}, nil
		},
	}
}

// responses has what the responses to the queries of one look-up say. A and AAAA are asked for at the same time, each
// on its own connection.
type responses struct {
	mu     sync.Mutex
	ttl    time.Duration // the least so far; negative: there was none
	v4, v6 []netip.Addr
}

// add reads a response. The resolver ignores one that does not belong to the query, because it may be forged. So does
// add.
func (r *responses) add(query uint16, message []byte) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || !h.Response || h.ID != query || h.RCode != dnsmessage.RCodeSuccess || h.Truncated ||
		p.SkipAllQuestions() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return
		}
		ttl := time.Duration(h.TTL) * time.Second
		if h.TTL >= 1<<31 {
			ttl = 0 // RFC 2181 section 8
		}
		r.ttl = lesser(r.ttl, ttl)
		switch h.Type {
		case dnsmessage.TypeA:
			a, err := p.AResource()
			if err != nil {
				return
			}
			r.v4 = append(r.v4, netip.AddrFrom4(a.A))
		case dnsmessage.TypeAAAA:
			a, err := p.AAAAResource()
			if err != nil {
				return
			}
			r.v6 = append(r.v6, netip.AddrFrom16(a.AAAA))
		default:
			if p.SkipAnswer() != nil {
				return
			}
		}
	}
}

// all returns the least TTL and copies of the addresses.
func (r *responses) all() (ttl time.Duration, v4, v6 []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ttl, slices.Clone(r.v4), slices.Clone(r.v6)
}

// lesser returns the lesser of two times. A negative one is unknown.
func lesser(a, b time.Duration) time.Duration {
	if a < 0 || b < 0 {
		return max(a, b)
	}
	return min(a, b)
}

// observed is a connection of the resolver to a DNS server. The resolver uses each for one query, in one goroutine.
type observed struct {
	net.Conn
	seen  *responses
	stop  func() bool // the deadline is no longer set when the context ends
	query uint16      // the id of the query
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// SetDeadline does nothing: the end of the context sets the deadline. The resolver would set the end of the time for an
// answer, and would wait until then although the look-up was given up.
func (c *observed) SetDeadline(time.Time) error { return nil }

// Close closes the connection.
func (c *observed) Close() error {
	c.stop()
	return c.Conn.Close()
}

// packetConn has one message in each packet.
type packetConn struct {
	observed
	packets net.PacketConn
}

func (c *packetConn) Write(p []byte) (int, error) {
	if len(p) >= 2 {
		c.query = binary.BigEndian.Uint16(p)
	}
	return c.Conn.Write(p)
}

func (c *packetConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.seen.add(c.query, p[:n])
	return n, err
}

// ReadFrom and WriteTo are not used by the resolver. They make packetConn a net.PacketConn.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) { return c.packets.ReadFrom(p) }

// WriteTo is explained at ReadFrom.
func (c *packetConn) WriteTo(p []byte, addr net.Addr) (int, error) { return c.packets.WriteTo(p, addr) }

// streamConn has messages with two bytes of length before each (RFC 1035 section 4.2.2).
type streamConn struct {
	observed
	read []byte
}

func (c *streamConn) Write(p []byte) (int, error) {
	if len(p) >= 4 {
		c.query = binary.BigEndian.Uint16(p[2:])
	}
	return c.Conn.Write(p)
}

func (c *streamConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read = append(c.read, p[:n]...)
	if len(c.read) >= 2 {
		if end := 2 + int(binary.BigEndian.Uint16(c.read)); len(c.read) >= end {
			c.seen.add(c.query, c.read[2:end])
			c.read = c.read[end:]
		}
	}
	return n, err
}
