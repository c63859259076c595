package service

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// lookupTimeout bounds the look-up of the advertised name. Without an answer the name itself is advertised.
const lookupTimeout = 2 * time.Second

// ownAddress returns this machine's address that belongs to host, which is a name or a network. If there is none, it
// returns a name as it is, and "" for a network.
func (n Net) ownAddress(host string) string {
	if network, err := netip.ParsePrefix(host); err == nil {
		return addressIn(network)
	}
	if host == "" || net.ParseIP(host) != nil || n.LookupHost == nil {
		return host
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	found, err := n.LookupHost(ctx, host)
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
