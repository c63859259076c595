package bans_test

import (
	"errors"
	"fmt"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/bans"
)

func compile(t testing.TB, l bans.List) *bans.Table {
	t.Helper()
	table, err := bans.Compile(l)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestAddressesAndNetworksAreBanned(t *testing.T) {
	table := compile(t, bans.List{"192.0.2.7", "198.51.100.0/24", "10.0.0.0/9", "2001:db8::/32", "2001:db9::1"})
	for addr, want := range map[string]bool{
		"192.0.2.7": true, "192.0.2.8": false, "198.51.100.255": true, "198.51.101.0": false, "10.127.0.1": true,
		"10.128.0.1": false, "::ffff:192.0.2.7": true, "2001:db8:ffff::1": true, "2001:db9::1": true,
		"2001:db9::2": false, "2001:db8::1%eth0": true, "::1": false, "": false, "client": false,
	} {
		if got := table.Has(addr); got != want {
			t.Errorf("%q is banned: %t, want %t", addr, got, want)
		}
	}
	if !compile(t, bans.List{"0.0.0.0/0"}).Has("203.0.113.9") || compile(t, bans.List{"0.0.0.0/0"}).Has("::1") {
		t.Error("0.0.0.0/0 must ban each address of IPv4 and none of IPv6")
	}
	var none *bans.Table
	if none.Has("192.0.2.7") || !none.Empty() || !compile(t, nil).Empty() || table.Empty() {
		t.Error("nobody is banned by an empty list, and a list with entries is not empty")
	}
}

func TestListsAreRefused(t *testing.T) {
	p, err := config.ParseProperty(&configv1.Property{
		Name: "banned", Type: configv1.Type_TYPE_JSON, DefaultValue: "[]", JsonSchema: bans.List(nil).JSONSchema(),
	})
	if err != nil {
		t.Fatal(err)
	}
	long := make(bans.List, 10_001)
	for i := range long {
		long[i] = "192.0.2.7"
	}
	for name, l := range map[string]bans.List{
		"a name": {"localhost"}, "bits behind the network": {"10.0.0.1/8"}, "a zone": {"fe80::1%eth0"},
		"a network of IPv4 in the form of IPv6": {"::ffff:10.0.0.0/104"}, "too many": long,
	} {
		if err := l.Validate(); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: error %v, want one of kind Invalid", name, err)
		}
	}
	if err := p.Check(`["localhost"]`); err == nil {
		t.Error("the schema accepts a name")
	}
	if err := p.Check(`["192.0.2.7","2001:db8::/32"]`); err != nil {
		t.Errorf("the schema refuses an address and a network: %v", err)
	}
}

func BenchmarkHas(b *testing.B) {
	var l bans.List
	for i := range 10_000 {
		if i%2 == 0 {
			l = append(l, fmt.Sprintf("10.%d.%d.0/24", i/200, i%200))
		} else {
			l = append(l, fmt.Sprintf("172.%d.%d.7", i/200, i%200))
		}
	}
	table := compile(b, l)
	b.ReportAllocs()
	for b.Loop() {
		if table.Has("203.0.113.9") {
			b.Fatal("203.0.113.9 is not in the list")
		}
	}
}
