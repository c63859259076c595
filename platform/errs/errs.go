// Package errs gives errors a kind that survives the wire.
//
// There are few kinds, because a caller can do only few things: mend the input, give up, wait, or go elsewhere. One
// table maps each kind to a gRPC code and an HTTP status, and both ways are tested. An error that another process
// sent remembers it (see [Wire]): a gateway must not present "the origin said 404" as its own 404.
//
// What is Internal is not for callers. Both wires send a fixed text and the trace id instead of the error, and the
// place that answers logs the error once: servers of platform/rpc, and [WriteProblem] for HTTP.
//
//	return errs.Errorf(errs.Invalid, "publishing %d changes", n).Field("changes[2].value", "must be at most 10")
//
// A Kind is itself an error, so callers ask with the standard library:
//
//	if errors.Is(err, errs.NotFound) { ... }
//
// Several violations are collected first:
//
//	var bad errs.Violations
//	if name == "" {
//		bad.Add("name", "must not be empty")
//	}
//	return bad.Err("creating a profile")
package errs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// Error is a classified error. Make one with [Errorf]. It never changes: what adds to it returns a changed copy, so one
// error may be shared by goroutines, and who receives it cannot change what others see.
type Error struct {
	kind       Kind
	message    string
	fields     []Field
	reason     string
	meta       map[string]string
	retryAfter time.Duration
	wire       bool
	cause      error
}

// Field is one violation of the input.
type Field struct {
	// Name is the path of the field as the caller wrote it: changes[2].value.
	Name string
	// Problem is a predicate: "must be at most 10".
	Problem string
}

// Errorf returns an error of a kind. Its message is for the person who has to act: it says what was being done, to
// what, and what to do. The format may wrap causes with %w; a cause's text is part of the message, and errors.Is and
// errors.As see it.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{kind: kind, message: err.Error(), cause: err}
}

// Field returns a copy of e with one more violation. [Violations] collects several.
func (e *Error) Field(name, problem string) *Error {
	c := *e
	c.fields = append(slices.Clip(e.fields), Field{name, problem})
	return &c
}

// Because returns a copy of e with a reason and its metadata, given as key, value pairs. The reason is a stable
// UPPER_SNAKE_CASE identifier that programs may switch on. An empty reason removes the one that e has.
func (e *Error) Because(reason string, pairs ...string) *Error {
	c := *e
	c.reason, c.meta = reason, nil
	for i := 0; i+1 < len(pairs); i += 2 {
		if c.meta == nil {
			c.meta = make(map[string]string, len(pairs)/2)
		}
		c.meta[pairs[i]] = pairs[i+1]
	}
	return &c
}

// RetryIn returns a copy of e that asks the caller to wait for d before it tries again. Zero: the server does not say.
func (e *Error) RetryIn(d time.Duration) *Error {
	c := *e
	c.retryAfter = d
	return &c
}

// Kind decides code and status.
func (e *Error) Kind() Kind { return e.kind }

// Message is the text without the fields.
func (e *Error) Message() string { return e.message }

// Fields returns a copy of the violations, nil if there are none.
func (e *Error) Fields() []Field { return slices.Clone(e.fields) }

// Reason is a stable UPPER_SNAKE_CASE identifier that programs may switch on, or "".
func (e *Error) Reason() string { return e.reason }

// RetryAfter is how long the caller should wait. Zero: the server does not say.
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// Meta returns a copy of the metadata of the reason, nil if there is none.
func (e *Error) Meta() map[string]string { return maps.Clone(e.meta) }

// Error returns the message with the fields behind it, on one line.
func (e *Error) Error() string { return e.message + e.violations() }

// violations is the text of the fields, as it follows the message.
func (e *Error) violations() string {
	if len(e.fields) == 0 {
		return ""
	}
	var b strings.Builder
	for i, f := range e.fields {
		b.WriteString(map[bool]string{true: ": ", false: "; "}[i == 0])
		b.WriteString(f.Name + " " + f.Problem)
	}
	return b.String()
}

// Is reports whether target is e's kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.kind
}

// Unwrap returns the cause: what Errorf built, or the error of the call that [FromRPC] was given.
func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the kind of err: that of the outermost [Error] in its chain, else what a context error or a gRPC
// status in it means, else Internal. KindOf(nil) is Internal too; ask only about errors.
func KindOf(err error) Kind {
	var e *Error
	var k Kind
	switch {
	case errors.As(err, &e):
		return e.kind
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
		return e.retryAfter
	}
	return 0
}

// Reason returns the reason identifier of err, or "".
func Reason(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.reason
	}
	return ""
}
