package upstream_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bijou.dev/platform/memnet"
	"bijou.dev/services/gateway/internal/upstream"

	"golang.org/x/net/dns/dnsmessage"
)

// The resolver of the library makes its channels at the first look-up of a process. Made in a bubble of
// testing/synctest they could not be used in the next one.
func TestMain(m *testing.M) {
	r := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, net.ErrClosed
	}}
	_, _ = r.LookupHost(context.Background(), "warm-up.example.")
	os.Exit(m.Run())
}

// world is a network in memory with a DNS server, and a Set in it.
type world struct {
	t   *testing.T
	net *memnet.Network
	dns *dnsServer
	log *records
	set *upstream.Set
}

func newWorld(t *testing.T, change func(*upstream.Options)) *world {
	w := &world{t: t, net: memnet.New(), dns: newDNSServer(), log: &records{}}
	l, err := w.net.Listen("tcp", "dns:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go w.dns.serveStreams(l)
	opts := upstream.Options{
		DialContext: w.net.DialContext,
		DialDNS: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return w.net.DialContext(ctx, network, "dns:53")
		},
		Log: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	if change != nil {
		change(&opts)
	}
	w.set = upstream.New(opts)
	return w
}

// watched is a watch that keeps what its function was called with.
type watched struct {
	*upstream.Watch
	t *testing.T

	mu    sync.Mutex
	calls [][]upstream.Instance
}

func (w *world) watch(url string, check upstream.Check) *watched {
	w.t.Helper()
	check, err := check.Complete()
	if err != nil {
		w.t.Fatal(err)
	}
	got := &watched{t: w.t}
	got.Watch = w.set.Watch(parse(w.t, url), check, func(list []upstream.Instance) {
		got.mu.Lock()
		defer got.mu.Unlock()
		got.calls = append(got.calls, list)
	})
	w.t.Cleanup(got.Stop)
	return got
}

// last returns the addresses of the last call, and those that are not healthy with a "!" behind.
func (w *watched) last() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	addrs := []string{}
	for _, in := range w.calls[len(w.calls)-1] {
		if !in.Healthy {
			in.Addr += "!"
		}
		addrs = append(addrs, in.Addr)
	}
	return addrs
}

func (w *watched) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.calls)
}

func (w *watched) assertLast(what string, want ...string) {
	w.t.Helper()
	if got := w.last(); !slices.Equal(got, want) {
		w.t.Errorf("%s: the instances to use are %q, want %q", what, got, want)
	}
}

// records is a log.
type records struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

// count returns how many lines have a text.
func (r *records) count(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range strings.Lines(r.buf.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

// query is what a DNS server is asked.
type query struct {
	name string // with a final dot
	kind dnsmessage.Type
}

// answer is what a DNS server answers.
type answer struct {
	code    dnsmessage.RCode
	records []dnsmessage.Resource
	hang    bool
}

// dnsServer answers queries for the names that it was given, and NXDOMAIN for others. A name that has records of one
// type has none of the others.
type dnsServer struct {
	mu       sync.Mutex
	names    map[string]bool
	answers  map[query]answer
	asked    map[query]int
	truncate bool // answers over UDP have no room
	forged   bool // each answer over UDP comes after a forged one
}

func newDNSServer() *dnsServer {
	return &dnsServer{names: map[string]bool{}, answers: map[query]answer{}, asked: map[query]int{}}
}

// set replaces the answer for a name and type.
func (s *dnsServer) set(name string, kind dnsmessage.Type, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name] = true
	s.answers[query{name, kind}] = a
}

// setHost replaces the A and AAAA records of a name.
func (s *dnsServer) setHost(name string, ttl uint32, addrs ...string) {
	var v4, v6 []dnsmessage.Resource
	for _, a := range addrs {
		if ip := netip.MustParseAddr(a); ip.Is4() {
			v4 = append(v4, record(name, dnsmessage.TypeA, ttl, &dnsmessage.AResource{A: ip.As4()}))
		} else {
			v6 = append(v6, record(name, dnsmessage.TypeAAAA, ttl, &dnsmessage.AAAAResource{AAAA: ip.As16()}))
		}
	}
	s.set(name, dnsmessage.TypeA, answer{records: v4})
	s.set(name, dnsmessage.TypeAAAA, answer{records: v6})
}

// fail makes both look-ups of a name fail with a code.
func (s *dnsServer) fail(name string, code dnsmessage.RCode) {
	s.set(name, dnsmessage.TypeA, answer{code: code})
	s.set(name, dnsmessage.TypeAAAA, answer{code: code})
}

func (s *dnsServer) queries(name string, kind dnsmessage.Type) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[query{name, kind}]
}

func record(name string, kind dnsmessage.Type, ttl uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{
			Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET, TTL: ttl,
		},
		Body: body,
	}
}

func srv(name string, ttl uint32, priority, port uint16, target string) dnsmessage.Resource {
	return record(name, dnsmessage.TypeSRV, ttl, &dnsmessage.SRVResource{
		Priority: priority, Weight: 1, Port: port, Target: dnsmessage.MustNewName(target),
	})
}

// respond returns the response to a message, nil for none.
func (s *dnsServer) respond(message []byte, change func(*dnsmessage.Message)) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(message); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := query{m.Questions[0].Name.String(), m.Questions[0].Type}
	s.mu.Lock()
	s.asked[q]++
	a, known := s.answers[q]
	if !known && !s.names[q.name] {
		a.code = dnsmessage.RCodeNameError
	}
	s.mu.Unlock()
	if a.hang {
		return nil
	}
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: true, RecursionAvailable: true, RCode: a.code}
	m.Answers, m.Additionals = slices.Clone(a.records), nil
	if change != nil {
		change(&m)
	}
	out, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return out
}

func (s *dnsServer) serveStreams(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for {
				var size [2]byte
				if _, err := io.ReadFull(conn, size[:]); err != nil {
					return
				}
				message := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, message); err != nil {
					return
				}
				if out := s.respond(message, nil); out != nil {
					// In two writes, so that the resolver reads the message in pieces.
					_, _ = conn.Write(binary.BigEndian.AppendUint16(nil, uint16(len(out))))
					_, _ = conn.Write(out)
				}
			}
		}()
	}
}

func (s *dnsServer) servePackets(c net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		s.mu.Lock()
		truncate, forged := s.truncate, s.forged
		s.mu.Unlock()
		if forged {
			_, _ = c.WriteTo(s.respond(buf[:n], func(m *dnsmessage.Message) {
				m.ID++
				for i := range m.Answers {
					m.Answers[i].Header.TTL = 0
				}
			}), from)
		}
		if out := s.respond(buf[:n], func(m *dnsmessage.Message) {
			if truncate {
				m.Truncated, m.Answers = true, nil
			}
		}); out != nil {
			_, _ = c.WriteTo(out, from)
		}
	}
}

// certificate returns a certificate for names and addresses, and a pool that trusts it.
func certificate(t *testing.T, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, BasicConstraintsValid: true, IsCA: true,
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), // fake time begins in 2000
		NotAfter:  time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:  x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
