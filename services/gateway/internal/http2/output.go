package http2

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/services/gateway/internal/message"

	"golang.org/x/net/http2/hpack"
)

// output is what is sent on a connection. Any goroutine may add frames; who calls flush sends those of all, so that
// streams which have something at the same time share a system call.
type output struct {
	conn net.Conn
	// within is how long a write may take. Zero: the connection limits that.
	within time.Duration

	mu       sync.Mutex  // never held while writing to conn
	buf      *frames     // to be sent; nil: none
	other    *frames     // memory for buf, while buf is being written
	flushing bool        // a goroutine is writing, and sends what is added meanwhile
	room     sync.Cond   // signalled when buf was taken, and with err
	err      error       // nothing is sent any more
	stopped  atomic.Bool // the reader of the connection is to end
	deadline time.Time   // of writes

	enc   *hpack.Encoder
	block bytes.Buffer // of enc
}

// frames is memory for frames, from a pool.
type frames struct{ b []byte }

var framesPool = sync.Pool{New: func() any { return &frames{make([]byte, 0, 1<<10)} }}

const (
	// maxPending is how many bytes wait for a connection that does not take them, before who adds more has to wait.
	maxPending = 64 << 10
	// maxControl is how many bytes may wait in all. Frames that answer frames are not held back: who makes us send so many
	// does not read them.
	maxControl = 4 << 20
	// keepOutput is how much memory a connection keeps while it is used.
	keepOutput = 64 << 10
	// maxRounds is how often a goroutine sends what others have added, before another goroutine does it.
	maxRounds = 4
)

var (
	errClosed  = errors.New("the connection was closed")
	errNoReads = errors.New("the other side does not read")
)

func (o *output) init(c net.Conn) {
	o.conn = c
	o.room.L = &o.mu
	o.enc = hpack.NewEncoder(&o.block)
	o.enc.SetMaxDynamicTableSizeLimit(tableSize)
}

// await waits until not too many bytes wait to be sent.
func (o *output) await() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil && o.pending() > maxPending {
		if !o.flushing {
			o.flushing = true
			go o.send()
		}
		o.room.Wait()
	}
	return o.err
}

// lock returns with the lock held unless there is an error.
func (o *output) lock() error {
	o.mu.Lock()
	if o.pending() > maxControl && o.err == nil {
		o.failLocked(errNoReads)
	}
	if o.err != nil {
		o.mu.Unlock()
		return o.err
	}
	return nil
}

// flush sends what was added. Alone: no other stream may have something to send.
func (o *output) flush(alone bool) {
	o.mu.Lock()
	if o.flushing || o.pending() == 0 || o.err != nil {
		o.mu.Unlock()
		return // or it is sent by the goroutine that is flushing
	}
	o.flushing = true
	o.mu.Unlock()
	if !alone {
		runtime.Gosched() // what other goroutines are about to add goes with the same system call
	}
	o.send()
}

// flushLater sends what was added without waiting for the connection. The reader of a connection must not wait: else
// two sides that both wait for each other to read would do so for ever.
func (o *output) flushLater() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.flushing && o.pending() > 0 && o.err == nil {
		o.flushing = true
		go o.send()
	}
}

// send writes until there is nothing left. The caller has set flushing.
func (o *output) send() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for round := 0; o.pending() > 0 && o.err == nil; round++ {
		if round == maxRounds {
			go o.send()
			return
		}
		b := o.buf
		o.buf, o.other = o.other, nil
		o.room.Broadcast()
		if o.within > 0 {
			o.setDeadline()
		}
		o.mu.Unlock()
		_, err := o.conn.Write(b.b)
		o.mu.Lock()
		if err != nil {
			o.failLocked(err)
		}
		if b.b = b.b[:0]; cap(b.b) <= keepOutput {
			o.other = b
		}
	}
	o.flushing = false
	o.room.Broadcast()
	o.free()
}

// pending is how many bytes wait to be sent.
func (o *output) pending() int {
	if o.buf == nil {
		return 0
	}
	return len(o.buf.b)
}

// free gives the memory back while nothing is sent.
func (o *output) free() {
	if o.buf != nil && len(o.buf.b) == 0 {
		framesPool.Put(o.buf)
		o.buf = nil
	}
	if o.other != nil {
		framesPool.Put(o.other)
		o.other = nil
	}
}

// add returns memory for frames. The lock is held.
func (o *output) add() *frames {
	if o.buf == nil {
		o.buf = framesPool.Get().(*frames)
	}
	return o.buf
}

// slack is by how much a deadline for writing may be too early. It saves setting one for each write.
const slack = 2 * time.Second

func (o *output) setDeadline() {
	now := time.Now()
	if o.deadline.Sub(now) < o.within-slack {
		o.deadline = now.Add(o.within)
		_ = o.conn.SetWriteDeadline(o.deadline) // fails only when it is closed, and then writing fails
	}
}

// drain waits until all was sent, or cannot be.
func (o *output) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil && (o.flushing || o.pending() > 0) {
		if !o.flushing {
			o.flushing = true
			go o.send()
		}
		o.room.Wait()
	}
}

// fail makes adding and sending return an error.
func (o *output) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failLocked(err)
}

func (o *output) failLocked(err error) {
	if o.err != nil {
		return
	}
	o.err = err
	o.buf = nil
	o.room.Broadcast()
	o.stop()
}

// stop makes the reader of the connection end it.
func (o *output) stop() {
	o.stopped.Store(true)
	_ = o.conn.SetReadDeadline(message.LongAgo) // fails only when it is closed
}

// control adds a frame that is not about a body.
func (o *output) control(add func(b []byte) []byte) {
	if o.lock() == nil {
		to := o.add()
		to.b = add(to.b)
		o.mu.Unlock()
	}
}

// data adds a piece of a body, of at most maxFrame bytes.
func (o *output) data(stream uint32, p []byte, end bool) error {
	if err := o.lock(); err != nil {
		return err
	}
	defer o.mu.Unlock()
	to := o.add()
	var flags byte
	if end {
		flags = flagEndStream
	}
	to.b = append(appendHead(to.b, len(p), frameData, flags, stream), p...)
	return nil
}

// pseudo is a pseudo field.
type pseudo struct{ name, value string }

// headers adds a header or a trailer.
func (o *output) headers(stream uint32, first []pseudo, h message.Header, length int64, end bool) error {
	if err := o.lock(); err != nil {
		return err
	}
	defer o.mu.Unlock()
	to := o.add()
	o.block.Reset()
	for _, f := range first {
		o.field(f.name, f.value)
	}
	for _, f := range h {
		if !aboutConnection(f.Name) {
			o.field(lower(f.Name), f.Value)
		}
	}
	if length >= 0 {
		var room [20]byte
		o.field("content-length", string(strconv.AppendInt(room[:0], length, 10)))
	}
	var flags byte
	if end {
		flags = flagEndStream
	}
	kind := byte(frameHeaders)
	for block := o.block.Bytes(); ; {
		n := min(len(block), maxFrame)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		to.b = append(appendHead(to.b, n, kind, flags, stream), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			break
		}
		kind, flags = frameContinuation, 0
	}
	if o.block.Cap() > keepOutput {
		o.block = bytes.Buffer{}
	}
	return nil
}

// field encodes one field. Those that differ in each request are not put into the table, where they would replace those
// that do not, and are not looked for in it.
func (o *output) field(name, value string) {
	if !once(name) || o.block.Len() == 0 { // the first field of a block may need a change of the table's size before it
		_ = o.enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: once(name)}) // a buffer takes all
		return
	}
	o.block.WriteByte(neverIndexed)
	o.text(name)
	o.text(value)
}

// neverIndexed begins a field that no table has (RFC 7541, 6.2.3), with a name that is no number.
const neverIndexed = 0x10

// text encodes a text as it is (RFC 7541, 5.2).
func (o *output) text(s string) {
	const most = 1<<7 - 1 // that the first byte can say
	if n := len(s); n < most {
		o.block.WriteByte(byte(n))
	} else {
		o.block.WriteByte(most)
		for n -= most; n >= 1<<7; n >>= 7 {
			o.block.WriteByte(byte(n) | 1<<7)
		}
		o.block.WriteByte(byte(n))
	}
	o.block.WriteString(s)
}

func once(name string) bool {
	switch name {
	case "traceparent", "tracestate", "x-request-id", "grpc-timeout", "content-length", "date", "etag", "grpc-message":
		return true
	}
	return false
}

// aboutConnection reports whether HTTP/2 forbids a field because it is about one connection (RFC 9113, 8.2.2).
func aboutConnection(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// tableSize takes the table size that the other side allows.
func (o *output) tableSize(n uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.enc.SetMaxDynamicTableSize(min(n, tableSize))
}
