package console

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"syscall"

	"bijou.dev/platform/errs"
)

// rawTexts are the beginnings of texts that Go, gRPC and the operating system write about a connection. They are for
// the log: they do not tell a user which service has failed.
var rawTexts = []string{
	"rpc error:", "connection error:", "transport:", "context deadline exceeded", "context canceled", "dial tcp",
	"dial unix", "read tcp", "write tcp", "Get \"", "Post \"", "error reading from server", "unexpected EOF",
	"EOF", "net/http:", "i/o timeout", "etcdserver:", "connection refused", "connection reset",
	"received context error", "stream terminated by RST_STREAM", "the connection is draining",
	"last connection error",
}

// cutRaw returns the part of text before the first raw text, and whether text has raw text.
func cutRaw(text string) (before string, hasRaw bool) {
	end := len(text)
	for _, raw := range rawTexts {
		if i := strings.Index(text, raw); i >= 0 && i < end {
			end, hasRaw = i, true
		}
	}
	return strings.TrimRight(text[:end], " :;,("), hasRaw
}

// message returns a text for users: why name did not do what it was asked. A text that name itself wrote is kept; raw
// text about the connection is replaced with "NAME does not answer".
func message(name string, err error) string {
	err = errs.FromRPC(err)
	before, hasRaw := cutRaw(err.Error())
	if !hasRaw || !isServerFault(err) {
		return err.Error()
	}
	if before == "" {
		return name + failureOf(err)
	}
	return name + failureOf(err) + ": " + before
}

// failureOf returns how a service failed to answer.
func failureOf(err error) string {
	switch {
	case isTimeout(err):
		return " did not answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return " does not answer: no process listens at its address"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return " closed the connection before it answered"
	default:
		return " does not answer"
	}
}

// isServerFault reports whether the cause of err is the service that was asked, and not the request.
func isServerFault(err error) bool {
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Timeout, errs.Canceled, errs.Internal:
		return true
	default:
		return false
	}
}

// messageOf is message for a text that another process served, such as the reason of its check.
func messageOf(name, text string) string {
	before, hasRaw := cutRaw(text)
	switch {
	case !hasRaw:
		return text
	case before == "":
		return name + " does not answer"
	default:
		return before
	}
}

// userError returns err with a text for users. It keeps the kind, the reason and the delay of err. Raw text is logged.
func (c *Console) userError(name string, err error) error {
	if err == nil {
		return nil
	}
	err = errs.FromRPC(err)
	if errs.KindOf(err) == errs.Internal {
		return err // errs.WriteProblem does not send its text
	}
	text := message(name, err)
	if text == err.Error() {
		return err
	}
	c.log.Warn("asking another service", slog.String("service", name), slog.Any("error", err))
	return errs.Errorf(errs.KindOf(err), "%s", text).Because(errs.Reason(err)).RetryIn(errs.RetryAfter(err))
}
