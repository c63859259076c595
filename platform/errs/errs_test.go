package errs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bijou.dev/platform/errs"

	"github.com/google/go-cmp/cmp"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestEveryKindSurvivesBothWires(t *testing.T) {
	for _, k := range errs.Kinds() {
		if k == errs.Internal {
			continue // see TestInternalErrorsStayHere
		}
		sent := errs.Errorf(k, "doing a thing").
			Because("A_REASON", "k", "v").RetryIn(2*time.Second).Field("f", "is bad")

		got := errs.FromRPC(errs.ToStatus(t.Context(), sent).Err())
		checkReceived(t, k, sent, got)

		w := httptest.NewRecorder()
		errs.WriteProblem(w, httptest.NewRequest("GET", "/x?secret=1", nil), sent)
		want := k
		if k == errs.Exists {
			want = errs.Conflict // HTTP has one status for both
		}
		checkReceived(t, want, sent, errs.FromResponse(w.Result()))
	}
}

func checkReceived(t *testing.T, want errs.Kind, sent *errs.Error, got error) {
	t.Helper()
	e, ok := errors.AsType[*errs.Error](got)
	if !ok {
		t.Fatalf("%v: %v is no *errs.Error", want, got)
	}
	if !errors.Is(got, want) || e.Kind() != want {
		t.Errorf("kind is %v, want %v", e.Kind(), want)
	}
	if !errs.Wire(got) || errs.Wire(sent) {
		t.Errorf("%v: Wire is %v for the received error and %v for the sent one", want, errs.Wire(got), errs.Wire(sent))
	}
	if d := cmp.Diff(contents(sent), contents(e)); d != "" {
		t.Errorf("%v: what was received differs from what was sent (-sent +received):\n%s", want, d)
	}
}

// contents is what an error carries besides its kind.
func contents(e *errs.Error) map[string]any {
	return map[string]any{
		"message": e.Message(), "reason": e.Reason(), "retry after": e.RetryAfter(), "fields": e.Fields(), "meta": e.Meta(),
	}
}

func TestReceiverCannotChangeASharedError(t *testing.T) {
	shared := errs.Errorf(errs.Invalid, "checking").
		Field("a", "is bad").Because("REASON", "key", "value").RetryIn(time.Second)
	before := contents(shared)

	_ = shared.Field("b", "is bad too")
	_ = shared.Field("c", "is bad too")
	_ = shared.Because("OTHER", "key", "changed")
	_ = shared.RetryIn(time.Hour)
	shared.Fields()[0] = errs.Field{Name: "changed"}
	shared.Meta()["key"] = "changed"
	errs.ProblemOf(t.Context(), shared).Meta["key"] = "changed"

	if d := cmp.Diff(before, contents(shared)); d != "" {
		t.Errorf("the shared error changed (-before +after):\n%s", d)
	}
}

func TestBuildersOfOneErrorDoNotShareFields(t *testing.T) {
	base := errs.Errorf(errs.Invalid, "checking").Field("a", "is bad")
	first, second := base.Field("b", "is first"), base.Field("b", "is second")
	if first.Error() != "checking: a is bad; b is first" || second.Error() != "checking: a is bad; b is second" {
		t.Errorf("got %q and %q", first, second)
	}
}

func TestChangedCopyKeepsTheRest(t *testing.T) {
	cause := errors.New("disk on fire")
	err := errs.Errorf(errs.Unavailable, "storing: %w", cause).
		RetryIn(time.Second).Because("FIRE", "disk", "a").Field("x", "is bad")
	if !errors.Is(err, cause) || !errors.Is(err, errs.Unavailable) {
		t.Errorf("%v lost its cause or its kind", err)
	}
	if err := err.Because(""); err.Reason() != "" || err.Meta() != nil || err.RetryAfter() != time.Second ||
		len(err.Fields()) != 1 {
		t.Errorf("without its reason the error has %v", contents(err))
	}
	received := errs.FromRPC(status.Error(codes.Unavailable, "x"))
	if e, _ := errors.AsType[*errs.Error](received); !errs.Wire(e.Because("NOT_SENT")) {
		t.Error("a changed copy of a received error does not say that it was received")
	}
}

func TestReceivedErrorKeepsTheStatusAsItsCause(t *testing.T) {
	st := errs.ToStatus(t.Context(), errs.Errorf(errs.Exhausted, "refusing").RetryIn(time.Second))
	marked := &mark{st.Err()}
	err := errs.FromRPC(marked)
	if found, ok := errors.AsType[*mark](err); !ok || found != marked {
		t.Errorf("%v lost the error of the call", err)
	}
	if got, ok := status.FromError(err); !ok || got.Code() != codes.ResourceExhausted || len(got.Details()) != 1 {
		t.Errorf("the status in %v is %v", err, got)
	}
}

// mark is an error that another layer put around a status.
type mark struct{ error }

func (m *mark) Unwrap() error { return m.error }

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

const secret = "password is hunter2"

// internalErrors are the ways in which an error is Internal.
func internalErrors() map[string]error {
	cause := errors.New(secret)
	return map[string]error{
		"without a kind": cause,
		"wrapped":        fmt.Errorf("reading: %w", cause),
		"classified":     errs.Errorf(errs.Internal, "reading: %w", cause),
		"with details": errs.Errorf(errs.Internal, "reading: %w", cause).
			Because("X", "k", secret).Field(secret, secret).RetryIn(time.Second),
		"from a callee":   errs.FromRPC(status.Error(codes.Internal, secret)),
		"a status":        status.Error(codes.Unknown, secret),
		"wrapping a kind": errs.Errorf(errs.Internal, "reading: %w", errs.Errorf(errs.NotFound, secret)),
	}
}

func TestInternalErrorsStayHere(t *testing.T) {
	traceID := oteltrace.TraceID{1, 2, 3}
	ctx := oteltrace.ContextWithSpanContext(t.Context(), oteltrace.NewSpanContext(
		oteltrace.SpanContextConfig{TraceID: traceID, SpanID: oteltrace.SpanID{1}},
	))
	for name, err := range internalErrors() {
		t.Run(name, func(t *testing.T) {
			st := errs.ToStatus(ctx, err)
			if sent := fmt.Sprint(st.Proto()); strings.Contains(sent, "hunter2") || len(st.Details()) > 0 {
				t.Errorf("over gRPC the caller sees %s", sent)
			}
			if st.Code() != codes.Internal || !strings.Contains(st.Message(), traceID.String()) {
				t.Errorf("over gRPC the caller sees %v %q, want Internal and the trace id", st.Code(), st.Message())
			}

			var log bytes.Buffer
			r := httptest.NewRequest("GET", "/x", nil).
				WithContext(errs.WithLog(ctx, slog.New(slog.NewTextHandler(&log, nil))))
			w := httptest.NewRecorder()
			errs.WriteProblem(w, r, err)
			if sent := fmt.Sprint(w.Header(), w.Body); strings.Contains(sent, "hunter2") {
				t.Errorf("over HTTP the caller sees %s", sent)
			}
			for _, want := range []string{
				`"detail":"internal error; the log of the service has the cause, trace_id ` + traceID.String() + `"`,
				`"traceId":"` + traceID.String() + `"`,
			} {
				if w.Code != 500 || !strings.Contains(w.Body.String(), want) {
					t.Errorf("over HTTP the caller sees %d %s, want 500 and %s", w.Code, w.Body, want)
				}
			}
			if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), secret) {
				t.Errorf("the log has %d lines, want one with the cause: %s", lines, log.String())
			}
		})
	}
}

func TestOtherErrorsAreNotLogged(t *testing.T) {
	var log bytes.Buffer
	ctx := errs.WithLog(t.Context(), slog.New(slog.NewTextHandler(&log, nil)))
	for _, k := range errs.Kinds() {
		if k != errs.Internal {
			errs.WriteProblem(httptest.NewRecorder(), httptest.NewRequest("GET", "/x", nil).WithContext(ctx),
				errs.Errorf(k, "x"))
		}
	}
	if log.Len() > 0 {
		t.Errorf("the log has %s", log.String())
	}
}

func TestProblemHeaders(t *testing.T) {
	for wait, want := range map[time.Duration]string{
		0: "", time.Millisecond: "1", time.Second: "1", 1001 * time.Millisecond: "2", 90 * time.Second: "90",
	} {
		w := httptest.NewRecorder()
		errs.WriteProblem(w, httptest.NewRequest("GET", "/x?secret=1", nil),
			errs.Errorf(errs.Unavailable, "x").RetryIn(wait))
		if got := w.Header().Get("Retry-After"); got != want {
			t.Errorf("a wait of %v is Retry-After %q, want %q: never less than the wait", wait, got, want)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/problem+json", "Cache-Control": "no-store",
			"X-Content-Type-Options": "nosniff",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	}
}

func TestWrappingKeepsWhatWasBeingDone(t *testing.T) {
	err := fmt.Errorf("loading the home page: %w", errs.Errorf(errs.Unavailable, "asking catalog"))
	if got := errs.ToStatus(t.Context(), err).Message(); got != "loading the home page: asking catalog" {
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
	for _, kind := range []string{
		"application/problem+json", "application/problem+json; charset=utf-8", "Application/Problem+JSON",
	} {
		resp := &http.Response{
			StatusCode: 404, Status: "404 Not Found", Header: http.Header{"Content-Type": {kind}},
			Body: io.NopCloser(strings.NewReader(`{"detail":"no such film"}`)),
		}
		if err := errs.FromResponse(resp); !errors.Is(err, errs.NotFound) || err.Error() != "no such film" {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// What wraps an error may contain the text of its fields, for example because it quotes what the caller sent.
func TestMessageAndFieldsStayApartThroughWrapping(t *testing.T) {
	inner := errs.Errorf(errs.Invalid, "checking").Field("stars", "must be at most 5")
	for name, c := range map[string]struct {
		err           error
		message, text string
	}{
		"bare":    {inner, "checking", "checking: stars must be at most 5"},
		"wrapped": {fmt.Errorf("rating: %w", inner), "rating: checking", "rating: checking: stars must be at most 5"},
		"wrapped twice": {
			fmt.Errorf("a: %w", fmt.Errorf("b: %w", inner)),
			"a: b: checking", "a: b: checking: stars must be at most 5",
		},
		"wrapped with the same text before": {
			fmt.Errorf("rating %q: %w", inner.Error(), inner),
			`rating "checking: stars must be at most 5": checking`,
			`rating "checking: stars must be at most 5": checking: stars must be at most 5`,
		},
		"with the same text in its own message": {
			errs.Errorf(errs.Invalid, "after x: is y").Field("x", "is y").Field("z", "is w"),
			"after x: is y", "after x: is y: x is y; z is w",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			errs.WriteProblem(w, httptest.NewRequest("GET", "/", nil), c.err)
			for wire, got := range map[string]error{
				"gRPC": errs.FromRPC(errs.ToStatus(t.Context(), c.err).Err()), "HTTP": errs.FromResponse(w.Result()),
			} {
				e, ok := errors.AsType[*errs.Error](got)
				if !ok || e.Message() != c.message || e.Error() != c.text {
					t.Errorf("over %s: message %q and text %q, want %q and %q", wire, e.Message(), e, c.message, c.text)
				}
			}
		})
	}
}

func TestTextBehindAWrappedErrorIsKept(t *testing.T) {
	err := fmt.Errorf("rating (%w) of film 7",
		errs.Errorf(errs.Invalid, "checking").Field("stars", "must be at most 5"))
	want := "rating (checking: stars must be at most 5) of film 7"
	if got := errs.ToStatus(t.Context(), err).Message(); got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestViolations(t *testing.T) {
	var bad errs.Violations
	if err := bad.Err("checking"); err != nil {
		t.Errorf("no violations are the error %v", err)
	}
	bad.Add("name", "must not be empty")
	change := bad.At("changes[1]")
	change.Addf("value", "must be at most %d", 10)
	change.Add("", "must not be twice")
	change.At("scope").Add("zone", "must be known")
	if bad.Len() != 4 || change.Len() != 3 {
		t.Errorf("there are %d violations, %d of them in changes[1], want 4 and 3", bad.Len(), change.Len())
	}
	err := bad.Err("publishing %d changes", 2)
	want := "publishing 2 changes: name must not be empty; changes[1].value must be at most 10; changes[1] must not be twice; " +
		"changes[1].scope.zone must be known"
	if !errors.Is(err, errs.Invalid) || err.Error() != want {
		t.Errorf("got %v error %q, want an invalid %q", errs.KindOf(err), err, want)
	}
	bad.Add("more", "is bad")
	if err.Error() != want {
		t.Errorf("adding to the collector changed the error that it made to %q", err)
	}
}

func TestViolationsAreBounded(t *testing.T) {
	var bad errs.Violations
	for i := range 1000 {
		bad.At("list").Addf("x", "must not be %d", i)
	}
	e, ok := errors.AsType[*errs.Error](bad.Err("checking"))
	if !ok || len(e.Fields()) != errs.MaxViolations || !strings.Contains(e.Message(), "1000") {
		t.Errorf("1000 violations are %q", e)
	}
}

func Example() {
	err := errs.Errorf(errs.Invalid, "publishing 3 changes").Field("changes[2].value", "must be at most 10")
	wire := errs.ToStatus(context.Background(), err) // what a gRPC server sends
	got := errs.FromRPC(wire.Err())
	fmt.Println(got)
	fmt.Println(errors.Is(got, errs.Invalid), errs.Wire(got))
	// Output:
	// publishing 3 changes: changes[2].value must be at most 10
	// true true
}

// Only a problem is read: another JSON body may have fields of the same names that mean something else.
func TestAResponseThatIsNoProblemIsNotRead(t *testing.T) {
	for _, contentType := range []string{"application/json", "text/html; charset=utf-8", "a/b; ;", ""} {
		res := &http.Response{
			StatusCode: http.StatusConflict, Status: "409 Conflict", Header: http.Header{"Content-Type": {contentType}},
			Body: io.NopCloser(strings.NewReader(`{"detail":"other","code":"OTHER"}`)),
		}
		err := errs.FromResponse(res)
		if !errors.Is(err, errs.Conflict) || errs.Reason(err) != "" || strings.Contains(err.Error(), "other") {
			t.Errorf("Content-Type %q: got %v with reason %q, want the status alone", contentType, err, errs.Reason(err))
		}
	}
}
