// Package httpapi answers JSON requests over HTTP in one way: [Post] and [Get] make a handler of a function.
//
// A request is refused with a problem (RFC 9457) that has the trace id:
//
//	405  another method; Allow has the right one
//	415  a content type that is not application/json
//	413  a body of more than [MaxBody] bytes
//	400  a body that is not one JSON value, or has an unknown field or a field twice
//
// JSON has the names of proto JSON: lowerCamelCase. A request or response that is a proto message is read and written as
// proto JSON, any other by encoding/json.
package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"bijou.dev/platform/errs"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// MaxBody is the size of the largest body that is read, in bytes.
const MaxBody = 1 << 20

// Post returns a handler that reads a Q from the body of a POST, calls fn and writes what it returns. The error of fn
// is written as a problem: see [errs.WriteProblem].
func Post[Q, A any](fn func(context.Context, *Q) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(w, r, http.MethodPost) {
			return
		}
		var q Q
		if !Read(w, r, &q) {
			return
		}
		answer, err := fn(r.Context(), &q)
		respond(w, r, answer, err)
	})
}

// Get returns a handler that calls fn for a GET or HEAD and writes what it returns, as Post does.
func Get[A any](fn func(*http.Request) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if allowed(w, r, http.MethodGet, http.MethodHead) {
			answer, err := fn(r)
			respond(w, r, answer, err)
		}
	})
}

func allowed(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
	}
	w.Header().Set("Allow", methods[0])
	refuse(w, r, http.StatusMethodNotAllowed, errs.Errorf(errs.Invalid, "reading the request: the method must be %s", methods[0]))
	return false
}

// Read reads the body of r, which must be JSON, into a pointer to a struct or a proto message. If it returns false, it
// has answered r.
func Read(w http.ResponseWriter, r *http.Request, into any) bool {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		refuse(w, r, http.StatusUnsupportedMediaType, errs.Errorf(errs.Invalid, "reading the request: send application/json"))
		return false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		refuse(w, r, http.StatusRequestEntityTooLarge,
			errs.Errorf(errs.Invalid, "reading the request: the body must have at most %d bytes", MaxBody))
		return false
	}
	if err == nil {
		err = decode(body, into)
	}
	if err != nil {
		refuse(w, r, http.StatusBadRequest, errs.Errorf(errs.Invalid, "reading the request: %w", err))
		return false
	}
	return true
}

func decode(body []byte, into any) error {
	if err := CheckKeys(body); err != nil {
		return err
	}
	if m, ok := into.(proto.Message); ok {
		return protojson.Unmarshal(body, m)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// refuse answers with a problem whose status has no kind of error of its own.
func refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	p := errs.ProblemOf(r.Context(), err)
	p.Status, p.Title, p.Instance = status, http.StatusText(status), r.URL.Path
	errs.WriteProblemBody(w, p, 0)
}

func respond(w http.ResponseWriter, r *http.Request, answer any, err error) {
	var text []byte
	if err == nil {
		text, err = encode(answer)
	}
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // an error here means that the client has closed the connection
}

func encode(answer any) (text []byte, err error) {
	if m, ok := answer.(proto.Message); ok {
		text, err = protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	} else {
		text, err = json.Marshal(answer)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	return text, nil
}
