package errs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bijou.dev/platform/errs"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestEveryKindSurvivesBothWires(t *testing.T) {
	for _, k := range errs.Kinds() {
		sent := errs.Errorf(k, "doing a thing").Because("A_REASON", "k", "v").RetryIn(2*time.Second).Field("f", "is bad")

		got := errs.FromRPC(errs.ToStatus(sent).Err())
		check(t, k, k, sent, got)

		w := httptest.NewRecorder()
		errs.WriteProblem(w, httptest.NewRequest("GET", "/x?secret=1", nil), sent)
		want := k
		if k == errs.Exists {
			want = errs.Conflict // HTTP has one status for both
		}
		resp := w.Result()
		check(t, k, want, sent, errs.FromResponse(resp))
		if got := resp.Header.Get("Retry-After"); got != "2" {
			t.Errorf("%v: Retry-After %q, want 2", k, got)
		}
	}
}

func check(t *testing.T, k, want errs.Kind, sent *errs.Error, got error) {
	t.Helper()
	var e *errs.Error
	if !errors.As(got, &e) {
		t.Fatalf("%v: %v is no *errs.Error", k, got)
	}
	if !errors.Is(got, want) || !errs.Wire(got) || errs.Wire(sent) {
		t.Errorf("%v: kind %v, wire %v", k, e.Kind, errs.Wire(got))
	}
	if e.Message != sent.Message || e.Reason != sent.Reason || e.RetryAfter != sent.RetryAfter {
		t.Errorf("%v: %+v, want %+v", k, e, sent)
	}
	if d := cmp.Diff(sent.Fields, e.Fields) + cmp.Diff(sent.Meta, e.Meta); d != "" {
		t.Errorf("%v: %s", k, d)
	}
}

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want errs.Kind
	}{
		{errors.New("x"), errs.Internal},
		{fmt.Errorf("y: %w", errs.NotFound), errs.NotFound},
		{fmt.Errorf("y: %w", errs.Errorf(errs.Denied, "z")), errs.Denied},
		{context.DeadlineExceeded, errs.Timeout},
		{fmt.Errorf("y: %w", context.Canceled), errs.Canceled},
		{status.Error(codes.Unavailable, "x"), errs.Unavailable},
		{status.Error(codes.OutOfRange, "x"), errs.Invalid},
		{status.Error(codes.DataLoss, "x"), errs.Internal},
		{errs.Errorf(errs.Unavailable, "a: %w", errs.NotFound), errs.Unavailable},
	} {
		if got := errs.KindOf(c.err); got != c.want {
			t.Errorf("KindOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestUnclassifiedTextStaysHere(t *testing.T) {
	secret := errors.New("password is hunter2")
	if st := errs.ToStatus(secret); st.Code() != codes.Internal || st.Message() != "internal error" {
		t.Errorf("status %v %q", st.Code(), st.Message())
	}
	if p := errs.ProblemOf(secret); p.Detail != "" || p.Status != http.StatusInternalServerError {
		t.Errorf("problem %+v", p)
	}
}

func TestWrappingKeepsWhatWasBeingDone(t *testing.T) {
	err := fmt.Errorf("loading the home page: %w", errs.Errorf(errs.Unavailable, "asking catalog"))
	if got := errs.ToStatus(err).Message(); got != "loading the home page: asking catalog" {
		t.Errorf("message %q", got)
	}
}

func TestForeignProblemBodiesAreBounded(t *testing.T) {
	for _, body := range []string{"", "{", `{"detail":7}`, "<html>"} {
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(503)
		w.WriteString(body)
		if err := errs.FromResponse(w.Result()); !errors.Is(err, errs.Unavailable) {
			t.Errorf("body %q: %v", body, err)
		}
	}
}

func TestFromResponseReadsTheBodyWhateverItsParameters(t *testing.T) {
	for _, kind := range []string{"application/problem+json", "application/problem+json; charset=utf-8", "Application/Problem+JSON"} {
		resp := &http.Response{
			StatusCode: 404, Status: "404 Not Found", Header: http.Header{"Content-Type": {kind}},
			Body: io.NopCloser(strings.NewReader(`{"detail":"no such film"}`)),
		}
		if err := errs.FromResponse(resp); !errors.Is(err, errs.NotFound) || err.Error() != "no such film" {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestFieldsAreSaidOnceHoweverOftenTheErrorIsWrapped(t *testing.T) {
	err := fmt.Errorf("rating: %w", errs.Errorf(errs.Invalid, "checking").Field("stars", "must be at most 5"))
	want := "rating: checking: stars must be at most 5"
	if got := errs.FromRPC(errs.ToStatus(err).Err()); got.Error() != want {
		t.Errorf("over gRPC: %q, want %q", got, want)
	}
	w := httptest.NewRecorder()
	errs.WriteProblem(w, httptest.NewRequest("GET", "/", nil), err)
	if got := errs.FromResponse(w.Result()); got.Error() != want {
		t.Errorf("over HTTP: %q, want %q", got, want)
	}
}

func Example() {
	err := errs.Errorf(errs.Invalid, "publishing 3 changes").Field("changes[2].value", "must be at most 10")
	wire := errs.ToStatus(err) // what a gRPC server sends
	got := errs.FromRPC(wire.Err())
	fmt.Println(got)
	fmt.Println(errors.Is(got, errs.Invalid), errs.Wire(got))
	// Output:
	// publishing 3 changes: changes[2].value must be at most 10
	// true true
}
