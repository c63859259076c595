package hook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"bijou.dev/services/gateway/internal/message"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/encoding/protowire"
)

// envoy asks by gRPC, in the protocol ext_authz of Envoy.
//
// The messages are written and read field by field: they are few, and the generated types of
// github.com/envoyproxy/go-control-plane add 4.6 MB to the edge. Those types are the other side in the tests of the
// module services/gateway/authtest.
type envoy struct {
	conn *grpc.ClientConn
	err  error // why there is no connection
}

func newEnvoy(u *url.URL, opts Options) *envoy {
	creds := insecure.NewCredentials()
	if u.Scheme == "grpcs" {
		creds = credentials.NewTLS(opts.TLS) // nil: the authorities of the system
	}
	conn, err := grpc.NewClient("passthrough:///"+u.Host, grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return opts.DialContext(ctx, "tcp", addr)
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(maxBody+maxHeader)),
		grpc.WithDisableServiceConfig(), grpc.WithMaxHeaderListSize(maxHeader))
	return &envoy{conn, err}
}

func (e *envoy) close() {
	if e.conn != nil {
		_ = e.conn.Close() // it is not needed any more
	}
}

// raw passes bytes through gRPC.
type raw struct{}

var _ encoding.Codec = raw{}

// Marshal implements encoding.Codec.
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

// Unmarshal implements encoding.Codec.
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...) // gRPC uses data again
	return nil
}

// Name implements encoding.Codec: it is that of the messages on the wire.
func (raw) Name() string { return "proto" }

const checkMethod = "/envoy.service.auth.v3.Authorization/Check"

func (e *envoy) ask(ctx context.Context, q *Question) (*Answer, error) {
	if e.err != nil {
		return nil, fmt.Errorf("asking the hook: %w", e.err)
	}
	in := checkRequest(q)
	var out []byte
	if err := e.conn.Invoke(ctx, checkMethod, &in, &out); err != nil {
		return nil, errors.New("the hook did not answer") // the error may have its address
	}
	return ParseCheck(out)
}

// encoder encodes the fields of a message.
type encoder struct{ b []byte }

func (e *encoder) text(n protowire.Number, s string) {
	if s != "" {
		e.b = protowire.AppendTag(e.b, n, protowire.BytesType)
		e.b = protowire.AppendString(e.b, strings.ToValidUTF8(s, "!"))
	}
}

func (e *encoder) number(n protowire.Number, v int64) {
	e.b = protowire.AppendTag(e.b, n, protowire.VarintType)
	e.b = protowire.AppendVarint(e.b, uint64(v))
}

func (e *encoder) message(n protowire.Number, fill func(*encoder)) {
	var inner encoder
	fill(&inner)
	e.b = protowire.AppendTag(e.b, n, protowire.BytesType)
	e.b = protowire.AppendBytes(e.b, inner.b)
}

// entry is one of a map of texts.
func (e *encoder) entry(n protowire.Number, key, value string) {
	e.message(n, func(e *encoder) {
		e.text(1, key)
		e.text(2, value)
	})
}

// checkRequest encodes envoy.service.auth.v3.CheckRequest. Numbers are those of its fields and of AttributeContext, as
// of go-control-plane v1.40.0.
func checkRequest(q *Question) []byte {
	var e encoder
	e.message(1, func(e *encoder) { // attributes
		e.message(1, func(e *encoder) { // source
			e.message(1, func(e *encoder) { // address
				e.message(1, func(e *encoder) { // socket_address
					e.text(2, q.Client) // address
					e.number(3, 0)      // port_value: the client's is not known behind proxies
				})
			})
			e.text(4, q.Principal)
		})
		e.message(4, func(e *encoder) { // request
			e.message(2, func(e *encoder) { e.httpRequest(q) })
		})
		e.entry(10, "route", q.Route) // context_extensions
	})
	return e.b
}

// httpRequest encodes AttributeContext.HttpRequest. Names of fields are in lower case, and lines of one name are
// joined, as Envoy does it.
func (e *encoder) httpRequest(q *Question) {
	e.text(1, q.ID)
	e.text(2, q.Method)
	for _, pseudo := range [][2]string{
		{":authority", q.Host},
		{":method", q.Method},
		{":path", q.Path},
		{":scheme", q.Scheme},
		{"x-forwarded-for", strings.Join(q.Chain, ",")},
		{"x-forwarded-proto", q.Scheme},
		{"x-request-id", q.ID},
	} {
		e.entry(3, pseudo[0], pseudo[1])
	}
	for i, f := range q.Header {
		if !passes(f.Name) || f.Name == "X-Request-Id" || q.Header[:i].Has(f.Name) {
			continue
		}
		separator := ","
		if f.Name == "Cookie" {
			separator = "; "
		}
		var lines []string
		for line := range q.Header.Values(f.Name) {
			lines = append(lines, line)
		}
		e.entry(3, strings.ToLower(f.Name), strings.Join(lines, separator))
	}
	e.text(4, q.Path)
	e.text(5, q.Host)
	e.text(6, q.Scheme)
	e.number(9, -1) // size: not known here
	e.text(10, q.Protocol)
}

// errMalformed says that an answer is no CheckResponse.
var errMalformed = errors.New("the answer of the hook cannot be read")

// eachField calls take for the fields of a message.
func eachField(b []byte, take func(n protowire.Number, number uint64, bytes []byte) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return errMalformed
		}
		b = b[size:]
		var number uint64
		var bytes []byte
		switch kind {
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			bytes, size = protowire.ConsumeBytes(b)
			if bytes == nil {
				bytes = []byte{}
			}
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return errMalformed
		}
		if err := take(n, number, bytes); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// ParseCheck reads envoy.service.auth.v3.CheckResponse.
func ParseCheck(b []byte) (*Answer, error) {
	var code uint64
	var ok, deniedResponse, failed []byte
	err := eachField(b, func(n protowire.Number, _ uint64, bytes []byte) error {
		switch n {
		case 1: // status
			return eachField(bytes, func(n protowire.Number, number uint64, _ []byte) error {
				if n == 1 {
					code = number
				}
				return nil
			})
		case 2:
			deniedResponse = bytes
		case 3:
			ok = bytes
		case 5:
			failed = bytes
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case failed != nil:
		return nil, errors.New("the hook has an error")
	case code != 0 || deniedResponse != nil: // a response for the client is never taken for a permission
		return parseDenied(deniedResponse)
	}
	return parseOK(ok)
}

func parseOK(b []byte) (*Answer, error) {
	a := &Answer{Allowed: true}
	err := eachField(b, func(n protowire.Number, _ uint64, bytes []byte) error {
		switch n {
		case 2: // headers
			return parseHeader(bytes, &a.Header)
		case 6: // response_headers_to_add, of which only cookies are passed on
			var h message.Header
			err := parseHeader(bytes, &h)
			for line := range h.Values("Set-Cookie") {
				a.Cookies = append(a.Cookies, line)
			}
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

func parseDenied(b []byte) (*Answer, error) {
	status, body := uint64(http.StatusForbidden), []byte(nil)
	var h message.Header
	err := eachField(b, func(n protowire.Number, _ uint64, bytes []byte) error {
		switch n {
		case 1: // status
			return eachField(bytes, func(n protowire.Number, number uint64, _ []byte) error {
				if n == 1 && number != 0 {
					status = number
				}
				return nil
			})
		case 2:
			return parseHeader(bytes, &h)
		case 3:
			body = bytes
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if status > 999 {
		return nil, fmt.Errorf("the hook answered with the status %s", strconv.FormatUint(status, 10))
	}
	kept := h[:0]
	for _, f := range h {
		if forClient(f.Name) {
			kept = append(kept, f)
		}
	}
	return denied(int(status), kept, body)
}

// parseHeader reads a HeaderValueOption. A field that is not valid in HTTP is left out.
func parseHeader(b []byte, h *message.Header) error {
	return eachField(b, func(n protowire.Number, _ uint64, bytes []byte) error {
		if n != 1 {
			return nil
		}
		var key, value string
		err := eachField(bytes, func(n protowire.Number, _ uint64, bytes []byte) error {
			switch {
			case n == 1:
				key = string(bytes)
			case n == 2, n == 3 && len(bytes) > 0: // value, raw_value
				value = string(bytes)
			}
			return nil
		})
		if err == nil && httpguts.ValidHeaderFieldName(key) && httpguts.ValidHeaderFieldValue(value) {
			h.Add(message.Canonical(key), value)
		}
		return err
	})
}
