package errs_test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"bijou.dev/platform/errs"
)

// FuzzResponse holds that no answer of another server is more than an error here.
func FuzzResponse(f *testing.F) {
	f.Add(404, "application/problem+json", "3",
		`{"detail":"no such thing","code":"GONE","meta":{"a":"b"},"errors":[{"field":"x","detail":"y"}]}`)
	f.Add(503, "application/problem+json; charset=x", "-1", `{"status":"?"}`)
	f.Add(99, "", "", `{`)
	f.Fuzz(func(t *testing.T, code int, kind, retry, body string) {
		resp := &http.Response{
			StatusCode: code, Status: strconv.Itoa(code) + " " +
				http.StatusText(code), Body: io.NopCloser(strings.NewReader(body)),
			Header: http.Header{"Content-Type": {kind}, "Retry-After": {retry}},
		}
		err := errs.FromResponse(resp)
		if (err == nil) != (code < 400) {
			t.Fatalf("%d is %v", code, err)
		}
		if err != nil && (errs.RetryAfter(err) < 0 || errs.KindOf(err) == errs.Kind(0) && err.Error() == "") {
			t.Fatalf("%d is %v, again after %v", code, err, errs.RetryAfter(err))
		}
	})
}
