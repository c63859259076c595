package http1

import (
	"sync"
	"sync/atomic"
)

// Buffer is the memory for copying a body. It is small while the pieces are small, because there may be thousands of
// slow clients, and when all large buffers are in use. It must be freed.
type Buffer struct {
	small *[smallBuffer]byte
	large *[largeBuffer]byte
}

const (
	smallBuffer, largeBuffer = 4 << 10, 64 << 10
	maxLarge                 = 64
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
	largeTaken   atomic.Int64
)

// Next returns memory for what comes next; n is how much came last.
func (b *Buffer) Next(n int) []byte {
	switch {
	case n < smallBuffer/2:
		b.freeLarge()
	case b.large == nil && largeTaken.Add(1) <= maxLarge:
		b.large = largeBuffers.Get().(*[largeBuffer]byte)
	case b.large == nil:
		largeTaken.Add(-1)
	}
	if b.large != nil {
		return b.large[:]
	}
	if b.small == nil {
		b.small = smallBuffers.Get().(*[smallBuffer]byte)
	}
	return b.small[:]
}

// Free gives the memory back.
func (b *Buffer) Free() {
	b.freeLarge()
	if b.small != nil {
		smallBuffers.Put(b.small)
		b.small = nil
	}
}

func (b *Buffer) freeLarge() {
	if b.large != nil {
		largeBuffers.Put(b.large)
		largeTaken.Add(-1)
		b.large = nil
	}
}
