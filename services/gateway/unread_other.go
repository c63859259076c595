//go:build !linux && !darwin

package gateway

import "net"

// unread does nothing here.
type unread struct{}

func (*unread) init(net.Conn) {}

func (*unread) is() bool { return false }
