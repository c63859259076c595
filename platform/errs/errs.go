// Package errs gives errors a kind that survives the wire.
//
// There are few kinds, because a caller can do only few things: mend the input, give up, wait, or go elsewhere. One
// table maps each kind to a gRPC code and an HTTP status, and both ways are tested. An error that another process
// sent remembers it (see [Wire]): a gateway must not present "the origin said 404" as its own 404.
//
//	return errs.Errorf(errs.Invalid, "publishing %d changes", n).Field("changes[2].value", "must be at most 10")
//
// A Kind is itself an error, so callers ask with the standard library:
//
//	if errors.Is(err, errs.NotFound) { ... }
package errs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/status"
)

// Kind says what a caller can do about an error. The zero Kind is Internal: an error nobody classified is our fault.
type Kind uint8

// The kinds. Their order is not part of any wire format.
const (
	Internal        Kind = iota // a defect or a broken dependency; not the caller's fault
	Invalid                     // the input can never work; fields say why
	NotFound                    // the thing named does not exist
	Exists                      // the thing to be made is there already
	Conflict                    // somebody else changed it meanwhile: read again, then retry
	Precondition                // the system is not in the state this needs
	Unauthenticated             // who are you
	Denied                      // you may not
	Exhausted                   // a limit or quota: slow down, then retry
	Unavailable                 // not now: retry elsewhere or later
	Timeout                     // the deadline passed; whether the work was done is unknown
	Canceled                    // the caller went away
	Unimplemented               // this server does not do that
)

// Error is a classified error. Make one with [Errorf].
type Error struct {
	// Kind decides code and status.
	Kind Kind
	// Message is for the person who has to act. It says what was being done, to what, and what to do.
	Message string
	// Fields name what was wrong with the input, for Invalid.
	Fields []Field
	// Reason is a stable UPPER_SNAKE_CASE identifier that programs may switch on. Empty: none.
	Reason string
	// Meta goes with Reason.
	Meta map[string]string
	// RetryAfter is how long the caller should wait. Zero: the server does not say.
	RetryAfter time.Duration

	wire bool
	err  error
}

// Field is one violation of the input.
type Field struct {
	// Name is the path of the field as the caller wrote it: changes[2].value.
	Name string
	// Problem is a predicate: "must be at most 10".
	Problem string
}

// Errorf returns an error of a kind. The format may wrap causes with %w; a cause's text is part of the message, and
// errors.Is and errors.As see it.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), err: err}
}

// Field adds a violation and returns e.
func (e *Error) Field(name, problem string) *Error {
	e.Fields = append(e.Fields, Field{name, problem})
	return e
}

// Because sets the reason and its metadata, given as key, value pairs, and returns e.
func (e *Error) Because(reason string, pairs ...string) *Error {
	e.Reason = reason
	for i := 0; i+1 < len(pairs); i += 2 {
		if e.Meta == nil {
			e.Meta = make(map[string]string, len(pairs)/2)
		}
		e.Meta[pairs[i]] = pairs[i+1]
	}
	return e
}

// RetryIn sets RetryAfter and returns e.
func (e *Error) RetryIn(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Error returns the message with the fields behind it, on one line.
func (e *Error) Error() string {
	if len(e.Fields) == 0 {
		return e.Message
	}
	var b strings.Builder
	b.WriteString(e.Message)
	for i, f := range e.Fields {
		b.WriteString(map[bool]string{true: ": ", false: "; "}[i == 0])
		b.WriteString(f.Name + " " + f.Problem)
	}
	return b.String()
}

// Is reports whether target is e's kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// Unwrap returns what Errorf built, whose causes stay visible to errors.As.
func (e *Error) Unwrap() error { return e.err }

// KindOf returns the kind of err: that of the outermost [Error] in its chain, else what a context error or a gRPC
// status in it means, else Internal. KindOf(nil) is Internal too; ask only about errors.
func KindOf(err error) Kind {
	var e *Error
	var k Kind
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.As(err, &k):
		return k
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return kindOfCode(s.GRPCStatus().Code())
	}
	return Internal
}

// Wire reports whether err was received from another process, as opposed to made in this one.
func Wire(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.wire
}

// RetryAfter returns how long the sender of err asked to wait, or zero.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// Reason returns the reason identifier of err, or "".
func Reason(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}
