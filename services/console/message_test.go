package console

import (
	"context"
	"fmt"
	"io"
	"syscall"
	"testing"

	"bijou.dev/platform/errs"
)

func TestMessages(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{
			"text of the service", errs.Errorf(errs.Unavailable, "the store is being moved"),
			"the store is being moved",
		},
		{
			"refused connection", errs.Errorf(errs.Unavailable, "dial tcp 1.2.3.4:80: %w", syscall.ECONNREFUSED),
			"web-1 does not answer: no process listens at its address",
		},
		{
			"reset connection", errs.Errorf(errs.Unavailable, "read tcp 1.2.3.4:80: %w", syscall.ECONNRESET),
			"web-1 closed the connection before it answered",
		},
		{
			"end of the connection", errs.Errorf(errs.Unavailable, "Get \"http://x\": %w", io.ErrUnexpectedEOF),
			"web-1 closed the connection before it answered",
		},
		{
			"timeout of HTTP", errs.Errorf(errs.Unavailable, "Get \"http://x\": %w", context.DeadlineExceeded),
			"web-1 did not answer in time",
		},
		{
			"raw text after a text of the service", errs.Errorf(errs.Unavailable, "reading x: connection error: y"),
			"web-1 does not answer: reading x",
		},
		{
			"wrong input that quotes raw text", errs.Errorf(errs.Invalid, "value must be JSON: unexpected EOF"),
			"value must be JSON: unexpected EOF",
		},
	} {
		if got := message("web-1", tt.err); got != tt.want {
			t.Errorf("%s: the message is %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestMessagesOfOtherProcesses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		"waiting for the first snapshot":     "waiting for the first snapshot",
		"rpc error: code = Unavailable":      "the store does not answer",
		"reading keys: dial tcp 1.2.3.4:237": "reading keys",
	} {
		if got := messageOf("the store", text); got != want {
			t.Errorf("messageOf %q is %q, want %q", text, got, want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	for err, want := range map[error]bool{
		nil:                      false,
		context.DeadlineExceeded: true,
		fmt.Errorf("asking: %w", context.DeadlineExceeded): true,
		errs.Errorf(errs.Timeout, "late"):                  true,
		errs.Errorf(errs.Unavailable, "away"):              false,
		context.Canceled:                                   false,
	} {
		if got := isTimeout(err); got != want {
			t.Errorf("isTimeout(%v) is %t, want %t", err, got, want)
		}
	}
}
