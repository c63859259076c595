//go:build !linux && !darwin

package http1

import (
	"io"
	"net"
	"syscall"
)

// source returns what is read from a connection.
func source(c net.Conn) io.Reader { return c }

// await waits until something has come from nc, and reads one byte.
func await(nc net.Conn, _ syscall.RawConn) (received []byte, err error) { return readByte(nc) }

// newPieces returns what reads from src.
func newPieces(src io.Reader) pieces { return &bufferedPieces{src: src} }

// unread does nothing here.
type unread struct{}

func (*unread) init(net.Conn) {}

func (*unread) is() bool { return false }
