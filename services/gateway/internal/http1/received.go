package http1

import "net"

// Input is what was received on a connection and not used yet, for another protocol on the same kind of connection. It
// holds memory only while there is something.
type Input struct{ in input }

// NewInput returns the input of a connection. Received is what was read from it before.
func NewInput(c net.Conn, received []byte) *Input {
	return &Input{input{src: source(c), buf: received}}
}

// Data is what was received and not used.
func (i *Input) Data() []byte { return i.in.data() }

// Use drops the first n bytes of Data.
func (i *Input) Use(n int) { i.in.use(n) }

// Fill waits for more bytes.
func (i *Input) Fill() error {
	if len(i.in.data()) == 0 {
		return i.in.await()
	}
	return i.in.fill()
}

// Reserve makes room for n bytes behind Data, so that the next Fill may read as many.
func (i *Input) Reserve(n int) { i.in.reserve(n) }

// Read reads what was received, or else directly from the connection.
func (i *Input) Read(p []byte) (int, error) { return i.in.read(p) }

// Free gives the memory back.
func (i *Input) Free() { i.in.free() }
