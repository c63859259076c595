package upstream_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/internal/upstream"

	"golang.org/x/net/dns/dnsmessage"
)

func TestAddressesAndSocketsNeedNoLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *upstream.Options) {
			o.DialDNS = func(context.Context, string, string) (net.Conn, error) {
				t.Error("a DNS server was asked")
				return nil, net.ErrClosed
			}
		})
		for url, want := range map[string]string{
			"http://10.0.0.1": "10.0.0.1:80", "https://[2001:db8::1]:8443": "[2001:db8::1]:8443",
			"unix:///run/app.sock": "/run/app.sock",
		} {
			got := w.watch(url, upstream.Check{})
			got.assertLast(url, want)
			<-got.Ready()
			if s := got.State(); s.Lookup != nil || len(s.Instances) != 1 || s.Instances[0].Addr != want {
				t.Errorf("the state of %s is %+v, want one instance %s and no look-up", url, s, want)
			}
		}
		time.Sleep(time.Hour)
	})
}

func TestInstancesOfANameAreItsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.dns.setHost("app.example.", 60, "10.0.0.2", "2001:db8::1", "10.0.0.1")
		got := w.watch("http://app.example:8080", upstream.Check{})
		got.assertLast("before the first look-up")
		<-got.Ready()
		got.assertLast("after the first look-up", "10.0.0.1:8080", "10.0.0.2:8080", "[2001:db8::1]:8080")

		w.dns.setHost("app.example.", 60, "10.0.0.3", "10.0.0.1")
		time.Sleep(70 * time.Second)
		got.assertLast("after the records have changed", "10.0.0.1:8080", "10.0.0.3:8080")

		w.dns.setHost("app.example.", 60, "10.0.0.1", "10.0.0.3")
		calls := got.count()
		time.Sleep(time.Hour)
		if n := got.count() - calls; n != 0 {
			t.Errorf("the function was called %d times although only the order of the records has changed", n)
		}
	})
}

func TestNameIsLookedUpAgainWhenItsTTLEnds(t *testing.T) {
	cname := record("app.example.", dnsmessage.TypeCNAME, 7, &dnsmessage.CNAMEResource{
		CNAME: dnsmessage.MustNewName("other.example."),
	})
	a := func(ttl uint32) dnsmessage.Resource {
		return record("app.example.", dnsmessage.TypeA, ttl, &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}})
	}
	aaaa := func(ttl uint32) dnsmessage.Resource {
		return record("app.example.", dnsmessage.TypeAAAA, ttl, &dnsmessage.AAAAResource{AAAA: [16]byte{15: 1}})
	}
	for _, c := range []struct {
		what   string
		v4, v6 []dnsmessage.Resource
		want   time.Duration
	}{
		{"A only", []dnsmessage.Resource{a(20)}, nil, 20 * time.Second},
		{"AAAA only", nil, []dnsmessage.Resource{aaaa(20)}, 20 * time.Second},
		{"A has the lesser TTL", []dnsmessage.Resource{a(10)}, []dnsmessage.Resource{aaaa(20)}, 10 * time.Second},
		{"AAAA has the lesser TTL", []dnsmessage.Resource{a(20)}, []dnsmessage.Resource{aaaa(10)}, 10 * time.Second},
		{"one of several records has a lesser TTL", []dnsmessage.Resource{a(20), a(9)}, nil, 9 * time.Second},
		{"CNAME has the lesser TTL", []dnsmessage.Resource{cname, a(20)}, nil, 7 * time.Second},
		{"0", []dnsmessage.Resource{a(0)}, nil, time.Second},
		{"a day", []dnsmessage.Resource{a(86400)}, nil, 5 * time.Minute},
		{"the most significant bit is set", []dnsmessage.Resource{a(1<<31 + 20)}, nil, time.Second},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.dns.set("app.example.", dnsmessage.TypeA, answer{records: c.v4})
				w.dns.set("app.example.", dnsmessage.TypeAAAA, answer{records: c.v6})
				got := w.watch("http://app.example.", upstream.Check{})
				<-got.Ready()
				waits := map[time.Duration]bool{}
				for range 5 {
					next := got.State().Lookup.Next
					wait := time.Until(next)
					if wait < c.want || wait > c.want+c.want/10 {
						t.Errorf("the next look-up is after %v, want %v and up to a tenth more", wait, c.want)
					}
					waits[wait] = true
					before := w.dns.queries("app.example.", dnsmessage.TypeA)
					time.Sleep(wait - time.Millisecond)
					synctest.Wait()
					early := w.dns.queries("app.example.", dnsmessage.TypeA) - before
					time.Sleep(time.Millisecond)
					synctest.Wait()
					if n := w.dns.queries("app.example.", dnsmessage.TypeA) - before; early != 0 || n != 1 {
						t.Errorf("%d queries before the time of the next look-up and %d until then, want 0 and 1", early, n)
					}
				}
				if len(waits) < 2 {
					t.Errorf("all waits between look-ups were %v; without jitter many gateways ask at the same time", waits)
				}
			})
		})
	}
}

func TestNameFromTheHostsFileIsLookedUpAgainAfter30Seconds(t *testing.T) {
	if addrs, err := net.LookupHost("localhost"); err != nil || len(addrs) == 0 {
		t.Skip("the hosts file of this machine does not have localhost")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		got := w.watch("http://localhost:3000", upstream.Check{})
		<-got.Ready()
		if wait := time.Until(got.State().Lookup.Next); wait < 30*time.Second || wait > 33*time.Second {
			t.Errorf("the next look-up is after %v, want 30s to 33s", wait)
		}
		if list := got.last(); !slices.Contains(list, "127.0.0.1:3000") && !slices.Contains(list, "[::1]:3000") {
			t.Errorf("the instances of localhost are %q, want its loopback addresses", list)
		}
	})
}

func TestFailedLookupsKeepTheLastKnownInstances(t *testing.T) {
	hang := func(d *dnsServer) {
		d.set("app.example.", dnsmessage.TypeA, answer{hang: true})
		d.set("app.example.", dnsmessage.TypeAAAA, answer{hang: true})
	}
	for what, fail := range map[string]func(*dnsServer){
		"SERVFAIL":       func(d *dnsServer) { d.fail("app.example.", dnsmessage.RCodeServerFailure) },
		"REFUSED":        func(d *dnsServer) { d.fail("app.example.", dnsmessage.RCodeRefused) },
		"NXDOMAIN":       func(d *dnsServer) { d.fail("app.example.", dnsmessage.RCodeNameError) },
		"no records":     func(d *dnsServer) { d.setHost("app.example.", 1) },
		"no answer":      hang,
		"only 0.0.0.0":   func(d *dnsServer) { d.setHost("app.example.", 1, "0.0.0.0") },
		"only multicast": func(d *dnsServer) { d.setHost("app.example.", 1, "224.0.0.1", "ff02::1") },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.dns.setHost("app.example.", 1, "10.0.0.1")
				got := w.watch("http://app.example.", upstream.Check{})
				<-got.Ready()
				fail(w.dns)
				time.Sleep(3 * time.Hour)
				got.assertLast("after three hours of failures", "10.0.0.1:80")
				if n := w.log.count("level=WARN"); n != 1 {
					t.Errorf("%d warnings in three hours of failures, want 1:\n%s", n, w.log)
				}
				failing := got.State().Lookup
				if failing.Error == "" || time.Since(failing.Since) < 2*time.Hour {
					t.Errorf("the state is %+v, want an error since three hours ago", failing)
				}

				w.dns.setHost("app.example.", 60, "10.0.0.2")
				time.Sleep(time.Minute)
				got.assertLast("after the look-up works again", "10.0.0.2:80")
				if n := w.log.count("works again"); n != 1 || w.log.count("level=") != 2 {
					t.Errorf("the log does not have one line more, about the success:\n%s", w.log)
				}
				if s := got.State().Lookup; s.Error != "" || time.Since(s.Since) > time.Minute {
					t.Errorf("the state is %+v, want no error since a moment ago", s)
				}
			})
		})
	}
}

func TestWaitsAfterFailedLookupsGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		got := w.watch("http://missing.example.", upstream.Check{})
		<-got.Ready()
		got.assertLast("a name that does not exist")
		for n, most := range []int{1, 2, 4, 8, 16, 30, 30, 30} {
			wait := time.Until(got.State().Lookup.Next)
			if high := time.Duration(most) * time.Second; wait < high/2 || wait > high {
				t.Errorf("wait %d is %v, want %v to %v", n+1, wait, high/2, high)
			}
			time.Sleep(wait)
			synctest.Wait()
		}
		w.dns.setHost("missing.example.", 60, "10.0.0.1")
		time.Sleep(30 * time.Second)
		got.assertLast("a name that exists since 30 s", "10.0.0.1:80")
	})
}

// A server that fails for AAAA only must neither take the IPv6 addresses away nor hide new IPv4 addresses.
func TestFailureOfOneFamilyKeepsItsAddresses(t *testing.T) {
	for what, fail := range map[string]answer{
		"SERVFAIL": {code: dnsmessage.RCodeServerFailure}, "no answer": {hang: true},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.dns.setHost("app.example.", 5, "10.0.0.1", "2001:db8::1")
				got := w.watch("http://app.example.", upstream.Check{})
				<-got.Ready()
				w.dns.setHost("app.example.", 5, "10.0.0.2")
				w.dns.set("app.example.", dnsmessage.TypeAAAA, fail)
				time.Sleep(10 * time.Minute)
				got.assertLast("AAAA fails", "10.0.0.2:80", "[2001:db8::1]:80")

				w.dns.setHost("app.example.", 5, "10.0.0.2", "2001:db8::2")
				time.Sleep(time.Minute)
				got.assertLast("AAAA works again", "10.0.0.2:80", "[2001:db8::2]:80")

				w.dns.set("app.example.", dnsmessage.TypeA, fail)
				w.dns.set("app.example.", dnsmessage.TypeAAAA, answer{records: []dnsmessage.Resource{
					record("app.example.", dnsmessage.TypeAAAA, 5, &dnsmessage.AAAAResource{
						AAAA: netip.MustParseAddr("2001:db8::3").As16(),
					}),
				}})
				time.Sleep(10 * time.Minute)
				got.assertLast("A fails", "10.0.0.2:80", "[2001:db8::3]:80")

				w.dns.setHost("app.example.", 5, "10.0.0.4")
				time.Sleep(time.Minute)
				got.assertLast("there are no AAAA records any more", "10.0.0.4:80")
				if n := w.log.count("level=WARN"); n != 2 {
					t.Errorf("%d warnings for two failures, want 2:\n%s", n, w.log)
				}
			})
		})
	}
}

func TestServerThatNeverAnswersForAAAA(t *testing.T) {
	for what, fail := range map[string]answer{
		"SERVFAIL": {code: dnsmessage.RCodeServerFailure}, "no answer": {hang: true},
		"NOTIMP": {code: dnsmessage.RCodeNotImplemented},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.dns.setHost("app.example.", 5, "10.0.0.1")
				w.dns.set("app.example.", dnsmessage.TypeAAAA, fail)
				got := w.watch("http://app.example.", upstream.Check{})
				<-got.Ready()
				got.assertLast("the first look-up", "10.0.0.1:80")
			})
		})
	}
}

func TestFamilyWithoutRouteIsNotUsed(t *testing.T) {
	for _, code := range []syscall.Errno{syscall.ENETUNREACH, syscall.EADDRNOTAVAIL} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(o *upstream.Options) {
				o.DialContext = func(_ context.Context, network, addr string) (net.Conn, error) {
					if strings.HasPrefix(addr, "[") {
						return nil, &net.OpError{Op: "dial", Net: network, Err: code}
					}
					return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
				}
			})
			w.dns.setHost("both.example.", 5, "10.0.0.1", "2001:db8::1", "2001:db8::2")
			both := w.watch("http://both.example.", upstream.Check{})
			<-both.Ready()
			both.assertLast("no route to IPv6 addresses: "+code.Error(), "10.0.0.1:80")

			w.dns.setHost("six.example.", 5, "2001:db8::1")
			six := w.watch("http://six.example.", upstream.Check{})
			<-six.Ready()
			six.assertLast("a name with only IPv6 addresses", "[2001:db8::1]:80")
		})
	}
}

func TestUnspecifiedAddressesAreNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.dns.setHost("app.example.", 5, "0.0.0.0", "10.0.0.1", "::")
		got := w.watch("http://app.example.", upstream.Check{})
		<-got.Ready()
		got.assertLast("records with 0.0.0.0 and ::", "10.0.0.1:80")
	})
}

func TestInstancesOfAnSRVName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const name = "_http._tcp.example.org."
		w := newWorld(t, nil)
		w.dns.set(name, dnsmessage.TypeSRV, answer{records: []dnsmessage.Resource{
			srv(name, 60, 20, 80, "spare.example."), srv(name, 60, 10, 8080, "a.example."),
			srv(name, 60, 10, 8081, "a.example."), srv(name, 60, 10, 9090, "b.example."),
			srv(name, 60, 10, 0, "b.example."), srv(name, 60, 10, 80, "missing.example."),
		}})
		w.dns.setHost("a.example.", 60, "10.0.0.1", "10.0.0.2")
		w.dns.setHost("b.example.", 8, "10.0.1.1")
		w.dns.setHost("spare.example.", 1, "10.0.9.9")
		got := w.watch("http://_http._tcp.example.org", upstream.Check{})
		<-got.Ready()
		got.assertLast("the hosts of the lowest priority",
			"10.0.0.1:8080", "10.0.0.1:8081", "10.0.0.2:8080", "10.0.0.2:8081", "10.0.1.1:9090")
		if n := w.dns.queries("a.example.", dnsmessage.TypeA); n != 1 {
			t.Errorf("a host with two ports was looked up %d times, want once", n)
		}
		s := got.State().Lookup
		if wait := time.Until(s.Next); wait < 8*time.Second || wait > 9*time.Second {
			t.Errorf("the next look-up is after %v, want 8s, the TTL of a host's address", wait)
		}
		if !strings.Contains(s.Error, "missing.example") {
			t.Errorf("the error of the look-up is %q, want one about missing.example", s.Error)
		}
	})
}

func TestHostOfAnSRVNameThatCannotBeLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const name = "_http._tcp.example.org."
		w := newWorld(t, nil)
		services := func(hosts ...string) {
			var records []dnsmessage.Resource
			for _, h := range hosts {
				records = append(records, srv(name, 5, 1, 80, h))
			}
			w.dns.set(name, dnsmessage.TypeSRV, answer{records: records})
		}
		services("a.example.", "b.example.")
		w.dns.setHost("a.example.", 5, "10.0.0.1")
		w.dns.setHost("b.example.", 5, "10.0.1.1")
		got := w.watch("http://_http._tcp.example.org.", upstream.Check{})
		<-got.Ready()

		w.dns.setHost("a.example.", 5, "10.0.0.2")
		w.dns.fail("b.example.", dnsmessage.RCodeServerFailure)
		time.Sleep(time.Hour)
		got.assertLast("one of two hosts fails", "10.0.0.2:80", "10.0.1.1:80")

		services("a.example.", "c.example.")
		w.dns.setHost("c.example.", 5, "10.0.2.1")
		time.Sleep(time.Minute)
		got.assertLast("the host that fails is not named any more", "10.0.0.2:80", "10.0.2.1:80")

		services(".")
		time.Sleep(time.Hour)
		got.assertLast(`the only host is ".", which means none`, "10.0.0.2:80", "10.0.2.1:80")

		w.dns.set(name, dnsmessage.TypeSRV, answer{code: dnsmessage.RCodeServerFailure})
		time.Sleep(time.Hour)
		got.assertLast("the SRV records cannot be looked up", "10.0.0.2:80", "10.0.2.1:80")
	})
}

func TestNumberOfInstancesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		var addrs []string
		for i := range 700 {
			addrs = append(addrs, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))
		}
		w.dns.setHost("app.example.", 5, addrs...)
		got := w.watch("http://app.example.", upstream.Check{})
		<-got.Ready()
		if n := len(got.last()); n != 500 {
			t.Errorf("%d of 700 addresses are used, want 500", n)
		}
		if s := got.State().Lookup; !strings.Contains(s.Error, "700") {
			t.Errorf("the error of the look-up is %q, want one that has the number of addresses", s.Error)
		}
	})
}

// The library uses UDP, and TCP for responses that have no room in a packet. A forged response must not change the TTL.
func TestLookupOverTheNetwork(t *testing.T) {
	for what, change := range map[string]func(*dnsServer){
		"UDP":              func(*dnsServer) {},
		"TCP after UDP":    func(d *dnsServer) { d.truncate = true },
		"forged responses": func(d *dnsServer) { d.forged = true },
	} {
		t.Run(what, func(t *testing.T) {
			d := newDNSServer()
			change(d)
			d.setHost("app.example.", 100, "127.0.0.1")
			packets, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer packets.Close()
			go d.servePackets(packets)
			streams, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer streams.Close()
			go d.serveStreams(streams)
			set := upstream.New(upstream.Options{
				DialDNS: func(ctx context.Context, network, _ string) (net.Conn, error) {
					addr := packets.LocalAddr().String()
					if network == "tcp" {
						addr = streams.Addr().String()
					}
					return new(net.Dialer).DialContext(ctx, network, addr)
				},
			})
			lists := make(chan []upstream.Instance, 10)
			before := time.Now()
			watch := set.Watch(parse(t, "http://app.example.:81"), upstream.Check{}, func(list []upstream.Instance) {
				lists <- list
			})
			defer watch.Stop()
			<-watch.Ready()
			after := time.Now()
			if list := <-lists; len(list) != 0 {
				t.Errorf("the first list is %v, want an empty one", list)
			}
			if list := <-lists; len(list) != 1 || list[0].Addr != "127.0.0.1:81" {
				t.Errorf("the second list is %v, want 127.0.0.1:81", list)
			}
			next := watch.State().Lookup.Next
			if next.Before(before.Add(100*time.Second)) || next.After(after.Add(110*time.Second)) {
				t.Errorf("the look-up ended between %v and %v and the next one is at %v, want 100s to 110s later", before,
					after, next)
			}
		})
	}
}

// FuzzResponse compares with a parser of whole messages.
func FuzzResponse(f *testing.F) {
	d := newDNSServer()
	d.setHost("app.example.", 100, "10.0.0.1", "2001:db8::1")
	d.set("srv.example.", dnsmessage.TypeSRV, answer{records: []dnsmessage.Resource{
		srv("srv.example.", 50, 1, 80, "app.example."),
		record("srv.example.", dnsmessage.TypeCNAME, 7, &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName("a.")}),
	}})
	for _, q := range []query{
		{"app.example.", dnsmessage.TypeA},
		{"app.example.", dnsmessage.TypeAAAA},
		{"srv.example.", dnsmessage.TypeSRV},
		{"missing.example.", dnsmessage.TypeA},
	} {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName(q.name), Type: q.kind, Class: dnsmessage.ClassINET,
		}}}
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(7), d.respond(packed, nil))
		f.Add(uint16(8), d.respond(packed, nil))
	}
	f.Fuzz(func(t *testing.T, id uint16, message []byte) {
		ttl, v4, v6 := upstream.ReadResponse(id, message)
		var m dnsmessage.Message
		if m.Unpack(message) != nil {
			return
		}
		want, wantV4, wantV6 := time.Duration(-1), 0, 0
		if m.Response && m.ID == id && m.RCode == dnsmessage.RCodeSuccess && !m.Truncated {
			for _, r := range m.Answers {
				record := time.Duration(r.Header.TTL) * time.Second
				if r.Header.TTL >= 1<<31 {
					record = 0
				}
				if want < 0 || record < want {
					want = record
				}
				switch r.Header.Type {
				case dnsmessage.TypeA:
					wantV4++
				case dnsmessage.TypeAAAA:
					wantV6++
				}
			}
		}
		if ttl != want || len(v4) != wantV4 || len(v6) != wantV6 {
			t.Errorf("the TTL is %v with %d IPv4 and %d IPv6 addresses, want %v, %d and %d, in\n%s", ttl, len(v4), len(v6), want,
				wantV4, wantV6, m.GoString())
		}
	})
}
