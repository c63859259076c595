package memnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how much one direction of a connection buffers, like a socket's buffers: without it, two ends that both
// write before they read would deadlock, which TCP does not.
const window = 64 << 10

// pipe returns the two ends of a connection to host.
func pipe(n *Network, host string, a addr) (client, server net.Conn) {
	up, down := newHalf(), newHalf()
	c := &conn{net: n, host: host, in: down, out: up, local: "client:0", remote: a}
	s := &conn{net: n, host: host, in: up, out: down, local: a, remote: "client:0"}
	return c, s
}

// conn is one end of a connection.
type conn struct {
	net           *Network
	host          string
	in, out       *half
	local, remote addr
}

// Read reads what the other end wrote. While the host is cut off it waits.
func (c *conn) Read(p []byte) (int, error) { return c.in.read(p, c) }

// Write buffers p for the other end and waits when the buffer is full. While the host is cut off a Write does not
// report that the other end has closed.
func (c *conn) Write(p []byte) (int, error) { return c.out.write(p, c) }

// Close ends both directions. The other end reads what was written and then io.EOF.
func (c *conn) Close() error {
	c.out.close(io.EOF)
	c.in.close(net.ErrClosed)
	return nil
}

// CloseWrite ends the sending direction only, as TCP can.
func (c *conn) CloseWrite() error {
	c.out.close(io.EOF)
	return nil
}

// LocalAddr returns this end.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the other end.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *conn) SetDeadline(t time.Time) error {
	c.in.readBy.set(t)
	c.out.writeBy.set(t)
	return nil
}

// SetReadDeadline ends pending and later reads at t.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.readBy.set(t)
	return nil
}

// SetWriteDeadline ends pending and later writes at t.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.writeBy.set(t)
	return nil
}

// half is one direction of a connection.
type half struct {
	mu     sync.Mutex
	buf    []byte
	err    error         // set once closed: what a reader gets after buf
	change chan struct{} // closed and replaced at each change

	readBy, writeBy deadline
}

func newHalf() *half {
	return &half{change: make(chan struct{}), readBy: newDeadline(), writeBy: newDeadline()}
}

func (h *half) signal() { // caller holds mu
	close(h.change)
	h.change = make(chan struct{})
}

func (h *half) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	reading := !errors.Is(err, net.ErrClosed)
	if h.err == nil || !reading {
		h.err = err
		if !reading {
			h.buf = nil
		}
		h.signal()
	}
}

func (h *half) read(p []byte, c *conn) (int, error) {
	for {
		select {
		case <-h.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		default:
		}
		healed := c.net.healed(c.host)
		h.mu.Lock()
		err := h.err
		if errors.Is(err, net.ErrClosed) {
			h.mu.Unlock()
			return 0, net.ErrClosed
		}
		if healed == nil && len(h.buf) > 0 {
			n := copy(p, h.buf)
			if h.buf = h.buf[n:]; len(h.buf) == 0 {
				h.buf = nil // free it at once: tests measure memory
			}
			h.signal()
			h.mu.Unlock()
			return n, nil
		}
		if healed == nil && err != nil {
			h.mu.Unlock()
			return 0, err
		}
		change := h.change
		h.mu.Unlock()
		select {
		case <-change:
		case <-healed:
		case <-h.readBy.passed():
		}
	}
}

func (h *half) write(p []byte, c *conn) (int, error) {
	sent := 0
	for {
		cut := c.net.healed(c.host) != nil
		select {
		case <-h.writeBy.passed():
			return sent, os.ErrDeadlineExceeded
		default:
		}
		h.mu.Lock()
		if err := h.err; err != nil {
			h.mu.Unlock()
			if errors.Is(err, net.ErrClosed) && cut {
				return sent + len(p), nil // the bytes are lost, and the sender cannot know
			}
			if errors.Is(err, net.ErrClosed) {
				return sent, syscall.EPIPE // the reader has closed
			}
			return sent, net.ErrClosed
		}
		if free := window - len(h.buf); free > 0 || len(p) == 0 {
			n := min(free, len(p))
			h.buf = append(h.buf, p[:n]...)
			sent, p = sent+n, p[n:]
			h.signal()
			if len(p) == 0 {
				h.mu.Unlock()
				return sent, nil
			}
		}
		change := h.change
		h.mu.Unlock()
		select {
		case <-change:
		case <-h.writeBy.passed():
		}
	}
}

// deadline is a point in time that can move.
type deadline struct {
	mu    *sync.Mutex
	timer *time.Timer
	done  *chan struct{}
}

func newDeadline() deadline {
	c := make(chan struct{})
	return deadline{mu: new(sync.Mutex), done: &c}
}

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return *d.done
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	select {
	case <-*d.done:
		*d.done = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	done := *d.done
	if wait := time.Until(t); wait > 0 {
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.timer == timer { // else the deadline has moved meanwhile
				close(done)
			}
		})
		d.timer = timer
		return
	}
	close(done)
}
