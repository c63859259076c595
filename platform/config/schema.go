package config

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/text"

	"github.com/google/jsonschema-go/jsonschema"
)

func parseJSON(value string) (any, error) {
	if !utf8.ValidString(value) {
		return nil, fmt.Errorf("must be UTF-8")
	}
	var v any
	if err := json.Unmarshal([]byte(value), &v); err != nil {
		return nil, fmt.Errorf("must be JSON: %s", shorten(err.Error()))
	}
	if err := text.CheckJSON([]byte(value)); err != nil {
		return nil, err
	}
	return v, nil
}

// parseSchema resolves the JSON schema. References are refused: with a schema that refers to itself the validator would
// recurse without end. Inferred schemas have no references.
func (p *Property) parseSchema() error {
	text := p.proto.GetJsonSchema()
	switch {
	case text == "":
		return nil
	case p.proto.GetType() != configv1.Type_TYPE_JSON:
		return fmt.Errorf("is for JSON only")
	}
	if err := checkLength(text); err != nil {
		return err
	}
	if err := refuseReferences(text); err != nil {
		return err
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal([]byte(text), &schema); err != nil {
		return fmt.Errorf("must be a JSON schema: %s", shorten(err.Error()))
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		return fmt.Errorf("must be a JSON schema: %s", shorten(err.Error()))
	}
	p.schema = resolved
	return nil
}

// maxDepth is how deep a schema may nest: what reads schemas is recursive.
const maxDepth = 64

func refuseReferences(text string) error {
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	depth := 0
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("must be JSON: %s", shorten(err.Error()))
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxDepth {
				return fmt.Errorf("must nest at most %d deep", maxDepth)
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		case "$ref", "$dynamicRef":
			return fmt.Errorf("must not have references, has %v", token)
		}
	}
}

// inferSchema returns the JSON schema of T. Types with UnmarshalText are strings. Types with UnmarshalJSON may be
// anything: they check their form themselves.
func inferSchema[T any]() (string, error) {
	own := map[reflect.Type]*jsonschema.Schema{}
	addUnmarshalers(reflect.TypeFor[T](), own, map[reflect.Type]bool{})
	schema, err := jsonschema.For[T](&jsonschema.ForOptions{TypeSchemas: own})
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(schema)
	return string(text), err
}

// addUnmarshalers adds to own the schemas of the types within t that have UnmarshalJSON or UnmarshalText.
func addUnmarshalers(t reflect.Type, own map[reflect.Type]*jsonschema.Schema, seen map[reflect.Type]bool) {
	if seen[t] || t == reflect.TypeFor[time.Time]() {
		return
	}
	seen[t] = true
	switch p := reflect.PointerTo(t); {
	case t.Kind() == reflect.Interface:
	case p.Implements(reflect.TypeFor[json.Unmarshaler]()):
		own[t] = &jsonschema.Schema{}
		return
	case p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		own[t] = &jsonschema.Schema{Type: "string"}
		return
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		addUnmarshalers(t.Elem(), own, seen)
	case reflect.Struct:
		for field := range t.Fields() {
			addUnmarshalers(field.Type, own, seen)
		}
	}
}

// schemaProblem rewrites an error of the validator for the person who wrote the value, as in
// "[].to[].service must be the name of a service". The validator says where in the schema the broken rule stands. The
// place in the value is derived from that. If the description there begins with "must", it replaces the rule itself.
func (p *Property) schemaProblem(problem string) string {
	at := ""
	for strings.HasPrefix(problem, "validating ") {
		at, problem, _ = strings.Cut(strings.TrimPrefix(problem, "validating "), ": ")
	}
	var schema any
	if at == "root" {
		at = ""
	}
	if err := json.Unmarshal([]byte(p.proto.GetJsonSchema()), &schema); err != nil {
		return problem // not possible: parseSchema has read it
	}
	place, member := "", false // member: the next step is a name
	for step := range strings.SplitSeq(strings.TrimPrefix(at, "/"), "/") {
		in, _ := schema.(map[string]any)
		schema = in[step]
		switch {
		case member:
			place, member = place+"."+step, false
		case step == "properties":
			member = true
		case step == "items":
			place += "[]"
		}
	}
	place = strings.TrimPrefix(place, ".")
	in, _ := schema.(map[string]any)
	if rule, _ := in["description"].(string); strings.HasPrefix(rule, "must ") {
		return strings.TrimSpace(place + " " + rule)
	}
	if place == "" {
		return problem
	}
	return place + ": " + problem
}
