//go:build linux || darwin

package http1

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// source returns what is read from a connection: where the kernel has the connection, it waits without a buffer.
func source(c net.Conn) io.Reader {
	raw := rawConn(c)
	if raw == nil {
		return c
	}
	s := &kernelSource{Conn: c, raw: raw}
	s.step = s.receive
	return s
}

// rawConn returns the kernel's connection; nil: it has none, or there is something between.
func rawConn(c net.Conn) syscall.RawConn {
	switch k := c.(type) {
	case interface{ RawConn() syscall.RawConn }:
		return k.RawConn()
	case syscall.Conn:
		if raw, err := k.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// kernelSource reads from a connection of the kernel.
type kernelSource struct {
	net.Conn
	raw  syscall.RawConn
	step func(fd uintptr) bool // made once
	in   *input                // for fill; nil: for poll
	p    []byte                // for poll
	n    int                   // that poll has read
	err  error
}

// poll implements waiter.
func (s *kernelSource) poll(p []byte) int {
	s.p, s.n = p, 0
	if err := s.raw.Read(s.step); err != nil {
		s.n = 0
	}
	s.p = nil
	return s.n
}

// fill implements waiter.
func (s *kernelSource) fill(in *input) error {
	s.in, s.err = in, nil
	err := s.raw.Read(s.step)
	s.in = nil
	if err != nil {
		return err
	}
	return s.err
}

// receive reads without waiting; false: nothing has come, and fill waits.
func (s *kernelSource) receive(fd uintptr) bool {
	in := s.in
	if in == nil {
		n, err := syscall.Read(int(fd), s.p)
		if err == nil {
			s.n = n
		}
		return true
	}
	in.reserve(minRead)
	for {
		n, err := syscall.Read(int(fd), in.buf[len(in.buf):cap(in.buf)])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case n > 0:
			in.buf = in.buf[:len(in.buf)+n]
			return true
		case len(in.data()) == 0:
			in.free()
		}
		if errors.Is(err, syscall.EAGAIN) {
			return false
		}
		if s.err = err; err == nil {
			s.err = io.EOF
		}
		return true
	}
}

// await waits until something can be read from nc, or it has ended, without holding memory. raw is the kernel's
// connection below nc; nil: there is none, and then one byte is read.
func await(nc net.Conn, raw syscall.RawConn) (received []byte, err error) {
	if raw == nil {
		return readByte(nc)
	}
	return nil, raw.Read(isReadable)
}

// isReadable is not a closure, so that nothing must be kept for it.
func isReadable(fd uintptr) bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
}

// newPieces returns what reads from src.
func newPieces(src io.Reader) pieces {
	s, ok := src.(*kernelSource)
	if !ok {
		return &bufferedPieces{src: src}
	}
	p := &kernelPieces{raw: s.raw}
	p.step = p.receive
	return p
}

// kernelPieces reads from a connection of the kernel.
type kernelPieces struct {
	raw   syscall.RawConn
	step  func(fd uintptr) bool // made once
	buf   Buffer
	piece []byte
	n     int // bytes of the last piece
	err   error
}

// next implements pieces.
func (s *kernelPieces) next() ([]byte, error) {
	s.err = nil
	if err := s.raw.Read(s.step); err != nil {
		return nil, err
	}
	return s.piece, s.err
}

// free implements pieces.
func (s *kernelPieces) free() {
	s.buf.Free()
}

// receive reads without waiting; false: nothing has come.
func (s *kernelPieces) receive(fd uintptr) bool {
	p := s.buf.Next(s.n)
	for {
		n, err := syscall.Read(int(fd), p)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			s.buf.Free()
			s.piece = nil
			return false
		case n > 0:
			s.piece, s.n = p[:n], n
			return true
		}
		s.piece = nil
		if s.err = err; err == nil {
			s.err = io.EOF
		}
		return true
	}
}

// unread looks for bytes on an idle connection without waiting and without reading them. All it needs is made once for
// a connection.
type unread struct {
	raw   syscall.RawConn // nil: the connection is none of the kernel's
	look  func(fd uintptr) bool
	found bool
	peek  [1]byte
}

func (u *unread) init(c net.Conn) {
	if u.raw = rawConn(c); u.raw != nil {
		u.look = u.lookAt
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
