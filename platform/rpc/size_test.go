package rpc_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/rpc"

	"google.golang.org/protobuf/proto"
)

// sized returns text that makes a message of exactly size bytes, if with(text) is a message with the text in a field.
func sized(size int, with func(text string) proto.Message) string {
	n := size
	for proto.Size(with(strings.Repeat("a", n))) > size {
		n--
	}
	return strings.Repeat("a", n)
}

// echo answers each Get with the text in its request, or with text.
type echo struct {
	configv1.UnimplementedConfigServer
	text string
}

func (e *echo) Get(context.Context, *configv1.GetRequest) (*configv1.GetResponse, error) {
	return response(e.text), nil
}

func response(text string) *configv1.GetResponse {
	return &configv1.GetResponse{Values: []*configv1.Value{{Value: text}}}
}

// 4 MiB is the largest message that a server takes and that a client takes. One byte more is refused.
func TestLargestMessage(t *testing.T) {
	const limit = 4 << 20
	if rpc.MaxMessage != limit {
		t.Errorf("MaxMessage is %d, want %d", rpc.MaxMessage, limit)
	}
	request := func(text string) *configv1.GetRequest { return &configv1.GetRequest{Names: []string{text}} }
	for _, size := range []int{limit, limit + 1} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			e := &echo{}
			w.startServer(t, rpc.ServerOptions{}, e)
			c := w.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})})
			check := func(what string, err error) {
				t.Helper()
				switch refused := size > limit; {
				case refused && !errors.Is(err, errs.Exhausted):
					t.Errorf("%s of %d bytes: got %v, want kind Exhausted", what, size, err)
				case !refused && err != nil:
					t.Errorf("%s of %d bytes: %v", what, size, err)
				}
			}
			_, err := c.Get(t.Context(), request(sized(size, func(s string) proto.Message { return request(s) })))
			check("a request", err)
			e.text = sized(size, func(s string) proto.Message { return response(s) })
			_, err = c.Get(t.Context(), &configv1.GetRequest{})
			check("a response", err)
		})
	}
}
