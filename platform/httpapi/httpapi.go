// Package httpapi answers JSON requests over HTTP in one way: [Post], [Get], [Body] and [Answer] make a handler of a
// function, and [Mux] chooses the handler.
//
// A request is refused with a problem (RFC 9457) that has the trace id:
//
//	404  a path that is not known
//	405  another method; Allow has the right ones
//	415  a content type that is not application/json
//	413  a body of more than [MaxBody] bytes
//	400  a body that is not one JSON value, or has an unknown field or a field twice
//
// JSON has the names of proto JSON: lowerCamelCase. A request or response that is a proto message is read and written
// as proto JSON, any other by encoding/json. Names of fields must match exactly, upper and lower case included.
package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/text"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// MaxBody is the size of the largest body that is read, in bytes.
const MaxBody = 2 << 20

// Post returns a handler that reads a Q from the body of a POST, calls fn and writes what it returns. The error of fn
// is written as a problem: see [errs.WriteProblem].
func Post[Q, A any](fn func(context.Context, *Q) (A, error)) http.Handler {
	return allow(Body(func(r *http.Request, q *Q) (A, error) { return fn(r.Context(), q) }), http.MethodPost)
}

// Get returns a handler that calls fn for a GET or HEAD and writes what it returns, as Post does.
func Get[A any](fn func(*http.Request) (A, error)) http.Handler {
	return allow(Answer(fn), http.MethodGet, http.MethodHead)
}

// Body returns a handler that does what Post does, for every method: the pattern by which it is registered in a [Mux]
// has the method. It is for a function that needs the request, for example its path.
func Body[Q, A any](fn func(*http.Request, *Q) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if !Read(w, r, &q) {
			return
		}
		answer, err := fn(r, &q)
		respond(w, r, answer, err)
	})
}

// Answer returns a handler that does what Get does, for every method, as Body does. It does not read the body.
func Answer[A any](fn func(*http.Request) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := fn(r)
		respond(w, r, answer, err)
	})
}

func allow(h http.Handler, methods ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(methods, r.Method) {
			refuseMethod(w, r, strings.Join(methods, ", "))
			return
		}
		h.ServeHTTP(w, r)
	})
}

func refuseMethod(w http.ResponseWriter, r *http.Request, allowed string) {
	w.Header().Set("Allow", allowed)
	refuse(w, r, http.StatusMethodNotAllowed,
		errs.Errorf(errs.Invalid, "reading the request: the method must be one of: %s", allowed))
}

// Mux is a [http.ServeMux] that refuses unknown paths and methods with a problem. The zero value is ready for use.
type Mux struct{ http.ServeMux }

// ServeHTTP calls the handler whose pattern matches r best.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fallback, pattern := m.Handler(r)
	if pattern != "" {
		m.ServeMux.ServeHTTP(w, r)
		return
	}
	refused := statusOnly{header: http.Header{}}
	fallback.ServeHTTP(&refused, r)
	if refused.status == http.StatusMethodNotAllowed {
		refuseMethod(w, r, refused.header.Get("Allow"))
		return
	}
	errs.WriteProblem(w, r, errs.Errorf(errs.NotFound, "there is nothing at %.200s", r.URL.Path))
}

// statusOnly keeps the status and the header of a response.
type statusOnly struct {
	header http.Header
	status int
}

func (w *statusOnly) Header() http.Header         { return w.header }
func (w *statusOnly) WriteHeader(status int)      { w.status = status }
func (w *statusOnly) Write(b []byte) (int, error) { return len(b), nil }

// Read reads the body of r, which must be JSON, into a pointer to a struct or a proto message. If it returns false, it
// has answered r.
func Read(w http.ResponseWriter, r *http.Request, into any) bool {
	// A page of another site can send any other content type without the browser asking us first.
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		refuse(w, r, http.StatusUnsupportedMediaType,
			errs.Errorf(errs.Invalid, "reading the request: Content-Type must be application/json"))
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
		reason := strings.ToValidUTF8(err.Error(), "\ufffd")
		refuse(w, r, http.StatusBadRequest, errs.Errorf(errs.Invalid, "reading the request: %.500s", reason))
		return false
	}
	return true
}

func decode(body []byte, into any) error {
	if err := text.CheckJSON(body); err != nil {
		return err
	}
	if m, ok := into.(proto.Message); ok {
		return protojson.Unmarshal(body, m)
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	if err := checkNames(value, reflect.TypeOf(into), ""); err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// checkNames returns an error if an object in value has a key that is not the name of a field of t. encoding/json
// ignores case: it would read "NAME" and "name" into the same field. The path is that of value.
func checkNames(value any, t reflect.Type, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch value := value.(type) {
	case []any:
		if t.Kind() != reflect.Slice && t.Kind() != reflect.Array {
			return nil // json.Unmarshal refuses it
		}
		for i, v := range value {
			if err := checkNames(v, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			field := strings.TrimPrefix(path+"."+key, ".")
			elem, ok := elemOf(t, key)
			if !ok {
				return fmt.Errorf("the field %.200q is unknown", field)
			}
			if err := checkNames(value[key], elem, field); err != nil {
				return err
			}
		}
	}
	return nil
}

// elemOf returns the type of what key stands for in a t. Of a t that is not made of named parts it returns t:
// json.Unmarshal decides.
func elemOf(t reflect.Type, key string) (elem reflect.Type, ok bool) {
	switch {
	case t.Kind() == reflect.Map:
		return t.Elem(), true
	case t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return t, true
	}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		if f.IsExported() && !f.Anonymous && name == key && name != "-" {
			return f.Type, true
		}
	}
	return nil, false
}

// refuse answers with a problem whose status has no kind of error of its own.
func refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	p := errs.ProblemOf(r.Context(), err)
	p.Status, p.Title, p.Instance = status, http.StatusText(status), r.URL.Path
	errs.WriteProblemBody(w, p)
}

func respond(w http.ResponseWriter, r *http.Request, answer any, err error) {
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	Write(w, r, http.StatusOK, answer)
}

// Write answers r with a status and a value as JSON, indented for people.
func Write(w http.ResponseWriter, r *http.Request, status int, answer any) {
	data, err := encode(answer)
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(data) // an error here means that the client has closed the connection
}

func encode(answer any) (data []byte, err error) {
	if m, ok := answer.(proto.Message); ok {
		data, err = protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	} else {
		data, err = json.Marshal(answer)
	}
	var indented bytes.Buffer
	if err == nil {
		err = json.Indent(&indented, data, "", "  ")
	}
	if err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	indented.WriteByte('\n')
	return indented.Bytes(), nil
}
