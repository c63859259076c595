//go:build linux || darwin

package gateway

import (
	"net"
	"syscall"
)

// unread looks for bytes on an idle connection without waiting and without reading them. All it needs is made once for
// a connection.
type unread struct {
	raw   syscall.RawConn // nil: the connection is none of the kernel's
	look  func(fd uintptr) bool
	found bool
	peek  [1]byte
}

func (u *unread) init(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := sc.SyscallConn(); err == nil {
		u.raw, u.look = raw, u.lookAt
	}
}

func (u *unread) lookAt(fd uintptr) bool {
	_, _, err := syscall.Recvfrom(int(fd), u.peek[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	u.found = err == nil // with no bytes: the other side has closed
	return true
}

// is reports whether there are bytes that nobody has read, or the connection has ended.
func (u *unread) is() bool {
	if u.raw == nil {
		return false
	}
	u.found = false
	return u.raw.Read(u.look) != nil || u.found
}
