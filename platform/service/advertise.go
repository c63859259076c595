package service

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"
)

// lookupTimeout bounds the question which addresses a name stands for. Without an answer the name itself will do.
const lookupTimeout = 2 * time.Second

// ownAddress returns the one of this machine's addresses that host stands for, else host.
func ownAddress(host string) string {
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
