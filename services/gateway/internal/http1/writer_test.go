package http1_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"testing"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"

	"github.com/google/go-cmp/cmp"
)

// vectors is a connection that notes how many pieces each system call would write.
type vectors struct {
	received
	calls []int
}

func (c *vectors) Write(p []byte) (int, error) {
	c.calls = append(c.calls, 1)
	return c.received.Write(p)
}

func (c *vectors) WriteVector(v *net.Buffers) error {
	c.calls = append(c.calls, len(*v))
	_, err := v.WriteTo(&c.received)
	return err
}

// Large pieces of a body are written together with what comes before them, and with what ends their chunk.
func TestLargePiecesNeedOneSystemCall(t *testing.T) {
	for _, tt := range []struct {
		name   string
		length int64
		pieces []int
		want   []int // pieces of each system call
	}{
		{"a small body", 100, []int{100}, []int{1}},
		{"nearly as much as the buffer has", 3900, []int{3900}, []int{1}},
		{"as much as the buffer has", 4096, []int{4096}, []int{2}},
		{"two large pieces", 100_000, []int{64_000, 36_000}, []int{2, 1}},
		{"a small piece before a large one", 64_100, []int{100, 64_000}, []int{2}},
		{"chunks", -1, []int{64_000, 36_000}, []int{3, 3, 1}},
		{"small chunks", -1, []int{10, 10}, []int{1}},
		{"a small chunk before a large one", -1, []int{10, 64_000}, []int{3, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &vectors{received: received{pieces: [][]byte{[]byte(ok)}}}
			body := bytes.Repeat([]byte("0123456789"), 10_000)
			sent := 0
			new(http1.State).Serve(c, http1.Options{Stopping: never, Handle: func(_ *message.Request, w message.Writer) {
				_ = w.Begin(http.StatusOK, nil, tt.length)
				for _, n := range tt.pieces {
					if m, err := w.Write(body[sent : sent+n]); m != n || err != nil {
						t.Errorf("writing %d bytes: %d, %v", n, m, err)
					}
					sent += n
				}
				_ = w.End(nil)
			}})
			if diff := cmp.Diff(tt.want, c.calls); diff != "" {
				t.Errorf("pieces of each system call (-want +got):\n%s", diff)
			}
			_, got, _ := bytes.Cut(c.Bytes(), []byte("\r\n\r\n"))
			var want []byte
			if tt.length >= 0 {
				want = body[:sent]
			} else {
				at := 0
				for _, n := range tt.pieces {
					want = fmt.Appendf(want, "%x\r\n%s\r\n", n, body[at:at+n])
					at += n
				}
				want = append(want, "0\r\n\r\n"...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the client gets a body of %d bytes that is not what was written, %d bytes", len(got), len(want))
			}
		})
	}
}
