//go:build !linux && !darwin

package http1

import (
	"io"
	"net"
)

// source returns what is read from a connection.
func source(c net.Conn) io.Reader { return c }

// unread does nothing here.
type unread struct{}

func (*unread) init(net.Conn) {}

func (*unread) is() bool { return false }
