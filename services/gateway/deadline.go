package gateway

import (
	"math"
	"net/http"
	"strconv"
	"time"
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

// deadlineOf returns the deadline of a gRPC call that was received at a time. Zero: the client set none, or an invalid
// one, which the origin's server refuses.
func deadlineOf(h http.Header, received time.Time) time.Time {
	lines := h["Grpc-Timeout"]
	if len(lines) != 1 || len(lines[0]) < 2 || len(lines[0]) > 9 {
		return time.Time{}
	}
	digits, unit := lines[0][:len(lines[0])-1], lines[0][len(lines[0])-1]
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
func (x *exchange) passDeadline() bool {
	if x.deadline.IsZero() {
		return true
	}
	left := time.Until(x.deadline)
	if left <= 0 {
		return false
	}
	for _, t := range timeouts {
		if n := left / t.d; n < 1e8 { // eight digits
			// not by x.set: see carrier
			x.header["Grpc-Timeout"] = []string{strconv.FormatInt(int64(n), 10) + string(t.unit)}
			return true
		}
	}
	return true
}

// expired reports whether the deadline of the call is over. Such a call does not count as a failure of the origin: else
// clients with short deadlines could open the circuit or eject instances for all other clients.
func (x *exchange) expired() bool { return !x.deadline.IsZero() && !time.Now().Before(x.deadline) }

func (x *exchange) deadlineExceeded() *failure {
	return fail(FaultClient, http.StatusRequestTimeout, "the deadline of the call is over")
}
