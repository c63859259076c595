package config

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Handler returns the REST API: the messages of the contract as JSON. docs/api/config.md lists it.
func (s *Server) Handler() http.Handler {
	m := new(httpapi.Mux)
	m.Handle("/v1/publish", httpapi.Post(s.Publish))
	m.Handle("/v1/rollback", httpapi.Post(s.Rollback))
	m.Handle("/v1/declare", httpapi.Post(s.Declare))
	m.Handle("/v1/values", query(s.Get))
	m.Handle("/v1/explain/{name}", query(s.Explain))
	m.Handle("/v1/properties", query(s.List))
	m.Handle("/v1/history", query(s.History))
	m.Handle("/v1/diff", query(s.Diff))
	m.Handle("/v1/status", query(s.Status))
	return m
}

// message is a pointer to a protobuf message.
type message[T any] interface {
	*T
	proto.Message
}

// query returns a handler for a method of the contract whose request is in the path and the query.
func query[Q, A any, PQ message[Q]](call func(context.Context, PQ) (A, error)) http.Handler {
	return httpapi.Get(func(r *http.Request) (answer A, err error) {
		req := PQ(new(Q))
		if err := fromQuery(r, req); err != nil {
			return answer, err
		}
		return call(r.Context(), req)
	})
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
	if err := protojson.Unmarshal(data, req); err != nil {
		reason := strings.ToValidUTF8(err.Error(), "")
		return errs.Errorf(errs.Invalid, "reading %s: %s", req.ProtoReflect().Descriptor().Name(), shorten(reason))
	}
	return nil
}

var _ configv1.ConfigServer = (*Server)(nil)
