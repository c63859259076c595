package errs

import (
	"net/http"

	"google.golang.org/grpc/codes"
)

// table is the one mapping of kinds to the wires, read in both directions. 499 is nginx's "client closed request":
// nobody receives it, but logs and metrics must not count it as the server's failure.
var table = [...]struct {
	name string
	code codes.Code
	http int
}{
	Internal:        {"internal", codes.Internal, http.StatusInternalServerError},
	Invalid:         {"invalid", codes.InvalidArgument, http.StatusBadRequest},
	NotFound:        {"not found", codes.NotFound, http.StatusNotFound},
	Exists:          {"exists", codes.AlreadyExists, http.StatusConflict},
	Conflict:        {"conflict", codes.Aborted, http.StatusConflict},
	Precondition:    {"precondition", codes.FailedPrecondition, http.StatusPreconditionFailed},
	Unauthenticated: {"unauthenticated", codes.Unauthenticated, http.StatusUnauthorized},
	Denied:          {"denied", codes.PermissionDenied, http.StatusForbidden},
	Exhausted:       {"exhausted", codes.ResourceExhausted, http.StatusTooManyRequests},
	Unavailable:     {"unavailable", codes.Unavailable, http.StatusServiceUnavailable},
	Timeout:         {"timeout", codes.DeadlineExceeded, http.StatusGatewayTimeout},
	Canceled:        {"canceled", codes.Canceled, 499},
	Unimplemented:   {"unimplemented", codes.Unimplemented, http.StatusNotImplemented},
}

// Kinds returns all kinds, for tables and tests.
func Kinds() []Kind {
	ks := make([]Kind, len(table))
	for i := range ks {
		ks[i] = Kind(i)
	}
	return ks
}

// Error returns the kind's name: "not found".
func (k Kind) Error() string { return k.String() }

// String returns the kind's name: "not found".
func (k Kind) String() string {
	if int(k) >= len(table) {
		k = Internal
	}
	return table[k].name
}

// Code returns the gRPC code.
func (k Kind) Code() codes.Code {
	if int(k) >= len(table) {
		k = Internal
	}
	return table[k].code
}

// HTTP returns the HTTP status.
func (k Kind) HTTP() int {
	if int(k) >= len(table) {
		k = Internal
	}
	return table[k].http
}

// kindOfCode is the way back. Codes without a kind of their own go to the nearest: OutOfRange is bad input, DataLoss
// and Unknown are the server's fault.
func kindOfCode(c codes.Code) Kind {
	if c == codes.OutOfRange {
		return Invalid
	}
	for k, row := range table {
		if row.code == c {
			return Kind(k)
		}
	}
	return Internal
}

// kindOfHTTP is the way back from HTTP, for a status of 400 or more. 409 is ambiguous: Conflict is the kind whose cure
// (read again) is safe.
func kindOfHTTP(code int) Kind {
	switch code {
	case http.StatusConflict:
		return Conflict
	case http.StatusRequestEntityTooLarge, http.StatusRequestHeaderFieldsTooLarge, http.StatusUnprocessableEntity:
		return Invalid
	case http.StatusBadGateway:
		return Unavailable
	}
	for k, row := range table {
		if row.http == code {
			return Kind(k)
		}
	}
	if code < 500 {
		return Invalid
	}
	return Internal
}
