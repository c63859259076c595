package config

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxBody is the largest request. A publish that is larger would not fit a transaction of the store.
const maxBody = 2 << 20

// Handler returns the REST face: the messages of the contract as JSON, errors as RFC 9457 problems. docs/api/config.md
// lists it.
func (s *Server) Handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /v1/publish", serve(fromBody, s.Publish))
	m.HandleFunc("POST /v1/rollback", serve(fromBody, s.Rollback))
	m.HandleFunc("POST /v1/declare", serve(fromBody, s.Declare))
	m.HandleFunc("GET /v1/values", serve(fromQuery, s.Get))
	m.HandleFunc("GET /v1/explain/{name}", serve(fromQuery, s.Explain))
	m.HandleFunc("GET /v1/properties", serve(fromQuery, s.List))
	m.HandleFunc("GET /v1/history", serve(fromQuery, s.History))
	m.HandleFunc("GET /v1/diff", serve(fromQuery, s.Diff))
	m.HandleFunc("GET /v1/status", serve(fromQuery, s.Status))
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		errs.WriteProblem(w, r, errs.Errorf(errs.NotFound, "answering %s %s: there is no such method and path; GET /v1/properties lists settings", r.Method, shorten(r.URL.Path)))
	})
	return m
}

// message is a pointer to a protobuf message.
type message[T any] interface {
	*T
	proto.Message
}

// serve is the one way from HTTP to the contract and back.
func serve[Q, A any, PQ message[Q], PA message[A]](read func(*http.Request, proto.Message) error, call func(context.Context, PQ) (PA, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		req := PQ(new(Q))
		if err := read(r, req); err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		resp, err := call(r.Context(), req)
		if err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		data, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(resp)
		if err != nil {
			errs.WriteProblem(w, r, errs.Errorf(errs.Internal, "writing answer: %w", err))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(data) // the client has gone; there is nobody to tell
	}
}

// fromBody reads JSON. It insists on the content type, because a page of another site can send any other without the
// browser asking us first.
func fromBody(r *http.Request, req proto.Message) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return errs.Errorf(errs.Invalid, "reading request").Field("Content-Type", "must be application/json")
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return errs.Errorf(errs.Invalid, "reading request: the body has more than %d bytes; publish in several steps", tooLarge.Limit)
		}
		return errs.Errorf(errs.Canceled, "reading request: %w", err)
	}
	return unmarshal(data, req)
}

// fromQuery reads parameters of the path and the query into the fields of the same name; what belongs to the identity
// of an instance needs no prefix.
func fromQuery(r *http.Request, req proto.Message) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return errs.Errorf(errs.Invalid, "reading query: %w", err)
	}
	if name := r.PathValue("name"); name != "" {
		query["name"] = []string{name}
	}
	fields := req.ProtoReflect().Descriptor().Fields()
	all, identity := map[string]any{}, map[string]any{}
	for key, values := range query {
		into, f := all, fields.ByName(protoreflect.Name(key))
		if id := fields.ByName("identity"); f == nil && id != nil {
			into, f = identity, id.Message().Fields().ByName(protoreflect.Name(key))
		}
		switch {
		case f == nil || key == "identity":
			return errs.Errorf(errs.Invalid, "reading query").Field(shorten(key), "is not a parameter of this path")
		case f.IsList():
			into[key] = values
		case len(values) > 1:
			return errs.Errorf(errs.Invalid, "reading query").Field(key, "must be given once")
		default:
			into[key] = values[0]
		}
	}
	if len(identity) > 0 {
		all["identity"] = identity
	}
	data, err := json.Marshal(all)
	if err != nil {
		return errs.Errorf(errs.Invalid, "reading query: %w", err)
	}
	return unmarshal(data, req)
}

func unmarshal(data []byte, req proto.Message) error {
	if err := protojson.Unmarshal(data, req); err != nil {
		text := bytes.ToValidUTF8([]byte(err.Error()), nil)
		return errs.Errorf(errs.Invalid, "reading %s: %s", req.ProtoReflect().Descriptor().Name(), shorten(string(text)))
	}
	return nil
}

var _ configv1.ConfigServer = (*Server)(nil)
