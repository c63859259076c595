package console

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"syscall"

	"bijou.dev/platform/errs"
)

// rawTexts begin what Go, gRPC and the system write about a connection. Such text is for the log: it does not say to a
// person whose trouble it is.
var rawTexts = []string{
	"rpc error:", "connection error:", "transport:", "context deadline exceeded", "context canceled", "dial tcp",
	"dial unix", "read tcp", "write tcp", "Get \"", "Post \"", "error reading from server", "unexpected EOF",
	"EOF", "net/http:", "i/o timeout", "etcdserver:", "connection refused", "connection reset",
	"received context error", "stream terminated by RST_STREAM", "the connection is draining",
	"last connection error",
}

// plain returns text up to where raw text begins, and whether there is any.
func plain(text string) (words string, hasRaw bool) {
	end := len(text)
	for _, raw := range rawTexts {
		if i := strings.Index(text, raw); i >= 0 && i < end {
			end, hasRaw = i, true
		}
	}
	return strings.TrimRight(text[:end], " :;,("), hasRaw
}

// sentence says in words for a person why who did not do what it was asked. What who itself wrote is kept; what is
// about the connection to it becomes "who does not answer".
func sentence(who string, err error) string {
	err = errs.FromRPC(err)
	words, hasRaw := plain(err.Error())
	if !hasRaw || !troubled(err) {
		return err.Error()
	}
	if words == "" {
		return who + verdict(err)
	}
	return who + verdict(err) + ": " + words
}

// verdict says how a service did not answer.
func verdict(err error) string {
	switch {
	case errors.Is(err, errs.Timeout), isTimeout(err):
		return " did not answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return " does not answer: no process listens at its address"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return " closed the connection before it answered"
	default:
		return " does not answer"
	}
}

// troubled reports whether err is about the service that was asked, not about what it was asked.
func troubled(err error) bool {
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Timeout, errs.Canceled, errs.Internal:
		return true
	default:
		return false
	}
}

// sentenceOf is sentence for a text that another process served, such as the reason of its check.
func sentenceOf(who, text string) string {
	words, hasRaw := plain(text)
	switch {
	case !hasRaw:
		return text
	case words == "":
		return who + " does not answer"
	default:
		return words
	}
}

// explain returns err with a text for a person, and the kind, reason and delay that it has. Raw text is logged.
func (c *Console) explain(who string, err error) error {
	if err == nil {
		return nil
	}
	err = errs.FromRPC(err)
	if errs.KindOf(err) == errs.Internal {
		return err // its text is not sent: see errs.WriteProblem
	}
	text := sentence(who, err)
	if text == err.Error() {
		return err
	}
	c.log.Warn("asking another service", slog.String("service", who), slog.Any("error", err))
	return errs.Errorf(errs.KindOf(err), "%s", text).Because(errs.Reason(err)).RetryIn(errs.RetryAfter(err))
}
