package gateway_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"bijou.dev/services/gateway"
	msg "bijou.dev/services/gateway/internal/message"
)

// defective is a body whose Read, or else whose Trailer after its end was read, panics.
type defective struct {
	reads, trailers int // calls until the panic
}

func (b *defective) Read(p []byte) (int, error) {
	if b.reads--; b.reads == 0 {
		panic("a defect in Read")
	}
	if b.reads < -2 {
		return 0, io.EOF
	}
	return copy(p, "abc"), nil
}

func (b *defective) Trailer() msg.Header {
	if b.reads < -2 {
		if b.trailers--; b.trailers == 0 {
			panic("a defect in Trailer")
		}
	}
	return nil
}

func (*defective) Received() (n int, whole bool) { return 0, false }

func (*defective) Interrupt()      {}
func (*defective) Malformed() bool { return false }

// A defect in the goroutine that sends a body to an origin ends the request, and not the process.
func TestAPanicWhileABodyIsSentEndsOnlyTheRequest(t *testing.T) {
	for name, body := range map[string]defective{
		"when the body is read":     {reads: 2},
		"when its trailer is asked": {reads: -1, trailers: 2}, // the first time is in the same call as the end
	} {
		for _, endpoint := range []string{"http", "grpc"} {
			if endpoint == "grpc" && body.trailers > 0 {
				continue // net/http asks for the trailer there
			}
			t.Run(name+" for "+endpoint, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					body := body
					w := newWorld(t, `[{"name":"web","to":[{"service":"web","endpoint":"`+endpoint+`"}]}]`)
					w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						_, _ = io.Copy(io.Discard, r.Body) // it is cut
					}))
					if status := gateway.Upload(w.edge, &body); status != http.StatusInternalServerError {
						t.Errorf("the status is %d, want 500", status)
					}
					if text := w.log.String(); !strings.Contains(text, "a defect of the edge") ||
						!strings.Contains(text, "a defect in ") {
						t.Errorf("the log does not tell of the defect: %s", text)
					}
					if n := w.metric("bijou_gateway_requests_in_flight"); n != 0 {
						t.Errorf("%v requests are in progress, want none", n)
					}
				})
			})
		}
	}
}

// A defect in the goroutine that connects to an origin ends the request, and not the process.
func TestAPanicWhileConnectingEndsOnlyTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *world
		w = worldWith(t, gateway.EdgeOptions{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == "bad-1:80" {
				panic("a defect in a test")
			}
			return w.net.DialContext(ctx, network, addr)
		}}, `[{"name":"bad","match":{"prefix":"/bad"},"to":[{"service":"bad"}]},{"name":"web","to":[{"service":"web"}]}]`)
		w.origin("web", "web-1", "", responds("ok"))
		w.register("bad", "bad-1", "", "bad-1:80")
		if res := w.get("http://x/bad"); res.StatusCode != http.StatusInternalServerError {
			t.Errorf("a request whose connection has a defect: status %d %s, want 500", res.StatusCode, res.body)
		}
		if res := w.get("http://x/"); res.StatusCode != http.StatusOK {
			t.Errorf("another request: status %d %s, want 200", res.StatusCode, res.body)
		}
		if text := w.log.String(); !strings.Contains(text, "a defect of the edge ended a request") ||
			!strings.Contains(text, "a defect in a test") {
			t.Errorf("the log does not tell of the defect: %s", text)
		}
	})
}
