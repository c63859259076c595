package http2

import (
	"strings"

	"bijou.dev/services/gateway/internal/message"
)

// names has the names of common fields in both forms, so that they need not be made for each field.
var names = func() (n struct{ canonical, lower map[string]string }) {
	n.canonical, n.lower = map[string]string{}, map[string]string{}
	for _, name := range []string{
		"Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Accept-Ranges", "Access-Control-Allow-Origin",
		"Age", "Allow", "Authorization", "Baggage", "Cache-Control", "Content-Disposition", "Content-Encoding",
		"Content-Language", "Content-Length", "Content-Location", "Content-Range", "Content-Security-Policy",
		"Content-Type", "Cookie", "Date", "Dnt", "Etag", "Expect", "Expires", "Forwarded", "From", "Grpc-Accept-Encoding",
		"Grpc-Encoding", "Grpc-Message", "Grpc-Previous-Rpc-Attempts", "Grpc-Status", "Grpc-Status-Details-Bin",
		"Grpc-Timeout", "Host", "Idempotency-Key", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
		"If-Unmodified-Since", "Last-Modified", "Link", "Location", "Max-Forwards", "Origin", "Priority", "Range", "Referer",
		"Retry-After", "Sec-Ch-Ua", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Server",
		"Server-Timing", "Set-Cookie", "Strict-Transport-Security", "Te", "Traceparent", "Tracestate", "Trailer",
		"Upgrade-Insecure-Requests", "User-Agent", "Vary", "Via", "Www-Authenticate", "X-Bijou-Attempts", "X-Bijou-Fault",
		"X-Content-Type-Options", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Frame-Options",
		"X-Request-Id", "X-Requested-With",
	} {
		lower := strings.ToLower(name)
		n.canonical[lower], n.lower[name] = name, lower
	}
	return n
}()

// canonical is the form of a name that message.Header has.
func canonical(name string) string {
	if c, ok := names.canonical[name]; ok {
		return c
	}
	return message.Canonical(name)
}

// lower is the form of a name in frames.
func lower(name string) string {
	if l, ok := names.lower[name]; ok {
		return l
	}
	return strings.ToLower(name)
}
