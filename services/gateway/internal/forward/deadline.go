package forward

import (
	"math"
	"strconv"
	"time"

	"bijou.dev/services/gateway/internal/message"
)

// timeouts are the units of grpc-timeout, the smallest first.
var timeouts = []struct {
	unit byte
	d    time.Duration
}{
	{'n', time.Nanosecond},
	{'u', time.Microsecond},
	{'m', time.Millisecond},
	{'S', time.Second},
	{'M', time.Minute},
	{'H', time.Hour},
}

// DeadlineOf returns the deadline of a gRPC call that was received at a time. Zero: the client set none, or an invalid
// one, which the origin's server refuses.
func DeadlineOf(h message.Header, received time.Time) time.Time {
	text := h.Get("Grpc-Timeout")
	if h.Count("Grpc-Timeout") != 1 || len(text) < 2 || len(text) > 9 {
		return time.Time{}
	}
	digits, unit := text[:len(text)-1], text[len(text)-1]
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return time.Time{}
	}
	for _, t := range timeouts {
		if t.unit == unit && n <= uint64(math.MaxInt64/t.d) {
			return received.Add(time.Duration(n) * t.d)
		}
	}
	return time.Time{}
}

// passDeadline sets grpc-timeout to the time that is left until the deadline of the call; false: none is left. The time
// that the call has spent at the edge, for example on an instance that did not respond, is subtracted.
func (c *call) passDeadline() bool {
	if c.Deadline.IsZero() {
		return true
	}
	left := time.Until(c.Deadline)
	if left <= 0 {
		return false
	}
	for _, t := range timeouts {
		if n := left / t.d; n < 1e8 { // eight digits
			c.header.Set("Grpc-Timeout", strconv.FormatInt(int64(n), 10)+string(t.unit))
			return true
		}
	}
	return true
}
