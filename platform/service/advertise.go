package service

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// lookupTimeout bounds the question which addresses a name stands for. Without an answer the name itself will do.
const lookupTimeout = 2 * time.Second

// ownAddress returns the one of this machine's addresses that host, a name or a network, stands for. Without one, a name is
// returned as it is, and for a network nothing.
func ownAddress(host string) string {
	if network, err := netip.ParsePrefix(host); err == nil {
		return addressIn(network)
	}
	if host == "" || net.ParseIP(host) != nil {
		return host
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return host
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return host
	}
	for _, addr := range found {
		if slices.ContainsFunc(own, func(a net.Addr) bool { return strings.HasPrefix(a.String(), addr+"/") }) {
			return addr
		}
	}
	return host
}

// addressIn returns this machine's address in a network, else "".
func addressIn(network netip.Prefix) string {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && network.Contains(p.Addr()) {
			return p.Addr().String()
		}
	}
	return ""
}
