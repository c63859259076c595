package tracing_test

import (
	"testing"

	"bijou.dev/platform/memnet"
	"bijou.dev/services/tracing"
)

// FuzzIngest checks that no body, in any format and encoding, is answered with an internal error.
func FuzzIngest(f *testing.F) {
	s := start(f, memnet.New(), "tracing", tracing.Options{})
	good := []byte(`[{"traceId":"463ac35c9f6413ad48485a3953bb6124","id":"a2fb4a1d1a96d312","name":"x",
		"timestamp":1,"duration":1}]`)
	f.Add(true, true, false, good)
	f.Add(true, true, true, good)
	f.Add(false, true, true, []byte(`{"resourceSpans":[{}]}`))
	f.Add(false, false, true, []byte{0x0a, 0x02, 0x12, 0x00})
	f.Add(false, false, false, make([]byte, 100))
	f.Fuzz(func(t *testing.T, zipkin, json, packed bool, body []byte) {
		port, path, kind, encoding := "4318", "/v1/traces", "application/x-protobuf", ""
		if zipkin {
			port, path = "9411", "/api/v2/spans"
		}
		if json {
			kind = "application/json"
		}
		if packed {
			encoding = "gzip"
			if len(body)%2 == 0 {
				body = zip(body) // else the body is not gzip
			}
		}
		mine := *s
		mine.t = t // its failures are t's
		if res, text := mine.do("POST", port, path, kind, encoding, body); res.StatusCode >= 500 && res.StatusCode != 503 {
			t.Errorf("%s %s %s: %d %s", path, kind, encoding, res.StatusCode, text)
		}
	})
}
