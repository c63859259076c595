package forward_test

import (
	"slices"
	"testing"

	"bijou.dev/services/gateway/internal/forward"
)

// FuzzFrames: the ends of WebSocket frames must not depend on the pieces in which bytes come.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x81\x85abcd12345\x88\x02\x03\xe9\x82\x7e\x00\x01x"), uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		pieces := slices.Collect(slices.Chunk(in, int(max(size, 1))))
		if a, b := forward.Frames([][]byte{in}), forward.Frames(pieces); a != b {
			t.Fatalf("frames end at %d, in pieces at %d", a, b)
		}
	})
}
