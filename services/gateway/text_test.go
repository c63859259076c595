package gateway_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway"
)

// encoding is a connection to a trace store that encodes requests as gRPC does, and accepts what can be encoded.
type encoding struct{ grpc.ClientConnInterface }

func (encoding) Invoke(_ context.Context, _ string, args, _ any, _ ...grpc.CallOption) error {
	_, err := proto.Marshal(args.(proto.Message))
	return err
}

// A request whose path is not UTF-8 is answered, has a line in the log, and does not lose the spans of other requests.
func TestPathThatIsNotUTF8(t *testing.T) {
	p, err := trace.New(trace.Options{Service: "gateway", Conn: func() grpc.ClientConnInterface { return encoding{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Shutdown(context.WithoutCancel(t.Context())) }()
	w := worldWith(t, gateway.EdgeOptions{Trace: p}, toWeb, "gateway.accessLog", "all")
	w.origin("web", "web-1", "v1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.Path)
	}))
	for _, path := range []string{"/good", "/bad%ff%fe", "/good"} {
		w.get("http://x" + path)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Exported() != 6 || p.Dropped() != 0 {
		t.Errorf("of 6 spans %d are exported and %d dropped", p.Exported(), p.Dropped())
	}
	if !strings.Contains(w.log.String(), `"path":"/bad`) {
		t.Errorf("the log has no line for the path:\n%s", w.log)
	}
}
