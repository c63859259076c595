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

// endpoints returns the addresses to register: every listener under the advertised host.
func (p *Process) endpoints() map[string]string {
	eps := make(map[string]string, len(p.listeners))
	advertise := p.opts.Net.ownAddress(p.opts.Advertise)
	for name, l := range p.listeners {
		host, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			continue
		}
		if ip := net.ParseIP(host); advertise != "" {
			host = advertise
		} else if ip != nil && ip.IsUnspecified() {
			host = outboundHost()
		}
		eps[name] = net.JoinHostPort(host, port)
	}
	return eps
}

// outboundHost returns the first address of this machine that another one can reach, else the loopback address.
func outboundHost() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && !strings.Contains(n.IP.String(), ":") {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
