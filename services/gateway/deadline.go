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
}{{'n', time.Nanosecond}, {'u', time.Microsecond}, {'m', time.Millisecond}, {'S', time.Second}, {
	'M',
	time.Minute,
}, {'H', time.Hour}}

// deadlineOf is when a gRPC call that came at a moment is to have ended, by its client. Zero: it gave none, or one that
// makes no sense, which the origin's server refuses.
func deadlineOf(h http.Header, came time.Time) time.Time {
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
			return came.Add(time.Duration(n) * t.d)
		}
	}
	return time.Time{}
}

// passDeadline tells the origin how much is left of the time that the client gave its call; false: none. The time that
// a call has spent here, on an instance that did not answer for example, is not given twice.
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
			x.header["Grpc-Timeout"] = []string{strconv.FormatInt(int64(n), 10) + string(t.unit)} // not by x.set: see carrier
			return true
		}
	}
	return true
}

// expired reports whether the time is over that the client gave its call. That a call has taken longer is no sign of an
// origin that fails: clients with little patience would take it from the others, by the circuit and by ejection.
func (x *exchange) expired() bool { return !x.deadline.IsZero() && !time.Now().Before(x.deadline) }

func (x *exchange) impatient() *failure {
	return fail(FaultClient, http.StatusRequestTimeout, "the time that the client gave the call is over")
}
