package config

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"github.com/google/jsonschema-go/jsonschema"
)

// Limits that both sides of the wire keep. What is larger is refused with an error of kind errs.Invalid.
const (
	// MaxName is the longest name of a setting, in bytes.
	MaxName = 256
	// MaxText is the largest value, default or schema, in bytes of text.
	MaxText = 256 << 10
)

// Property is a declaration that has been checked and can check values. Make it with [ParseProperty].
type Property struct {
	proto    *configv1.Property
	prefix   string // of a pattern: what is before and after the star
	suffix   string
	pattern  bool
	min, max any // nil: no bound
	schema   *jsonschema.Resolved
}

// ParseProperty checks a declaration: its name, its type, and that default, bounds, options and schema fit the type. An
// error is of kind errs.Invalid and names the field.
func ParseProperty(p *configv1.Property) (*Property, error) {
	fail := func(field string, err error) (*Property, error) {
		return nil, errs.Errorf(errs.Invalid, "declaring setting %q", shorten(p.GetName())).Field(field, err.Error())
	}
	prop := &Property{proto: p}
	if err := prop.parseName(p.GetName()); err != nil {
		return fail("name", err)
	}
	if t := p.GetType(); t <= configv1.Type_TYPE_UNSPECIFIED || t > configv1.Type_TYPE_JSON {
		return fail("type", fmt.Errorf("must be one of the known types, is %d", t))
	}
	if err := prop.parseOptions(); err != nil {
		return fail("options", err)
	}
	if err := prop.parseSchema(); err != nil {
		return fail("json_schema", err)
	}
	for _, b := range []struct {
		field, text string
		bound       *any
	}{{"min", p.GetMin(), &prop.min}, {"max", p.GetMax(), &prop.max}} {
		if err := prop.parseBound(b.text, b.bound); err != nil {
			return fail(b.field, err)
		}
	}
	if prop.min != nil && prop.max != nil && compare(prop.min, prop.max) > 0 {
		return fail("min", fmt.Errorf("must be at most max, %s", p.GetMax()))
	}
	if err := prop.Check(p.GetDefaultValue()); err != nil {
		return fail("default_value", err)
	}
	return prop, nil
}

// Proto returns the declaration as it is sent. It must not be modified.
func (p *Property) Proto() *configv1.Property { return p.proto }

// Name returns the name, or the pattern of a family.
func (p *Property) Name() string { return p.proto.GetName() }

// Pattern reports whether the name has a star, so that the property declares a family of settings.
func (p *Property) Pattern() bool { return p.pattern }

// Match reports whether the property declares the setting called name: it has that name, or its star stands for one or
// more whole segments of it. No other pattern than its own text matches a pattern.
func (p *Property) Match(name string) bool {
	if !p.pattern {
		return name == p.Name()
	}
	middle := len(name) - len(p.prefix) - len(p.suffix)
	return middle > 0 && strings.HasPrefix(name, p.prefix) && strings.HasSuffix(name, p.suffix) && CheckName(name) == nil
}

// Check says why text cannot be a value of the property, or returns nil. The error is a predicate without the name:
// "must be at most 10, is 12".
func (p *Property) Check(text string) error {
	v, err := p.parse(text)
	if err != nil || p.schema == nil {
		return err
	}
	if err := p.schema.Validate(v); err != nil {
		return fmt.Errorf("must fit its JSON schema: %s", shorten(p.schemaProblem(err.Error())))
	}
	return nil
}

// schemaProblem puts the validator's words in those of the writer of a value: "[].to[].service must be the name of a service".
// The validator names the place by the way through the schema; what is said there by a description that begins with "must" is
// better than how the rule is written.
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
		return problem // cannot be: it was read before
	}
	place, member := "", false // whether the next step is a name
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

// CheckName says what is wrong with the name of a setting, or returns nil: one or more segments joined by dots, each of
// ASCII letters, digits, "_", "-", ":" and "@", together at most [MaxName] bytes.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("must have 1 to %d bytes, has %d", MaxName, len(name))
	}
	for segment := range strings.SplitSeq(name, ".") {
		if segment == "" {
			return fmt.Errorf("must not have an empty segment")
		}
		for _, c := range []byte(segment) {
			if !nameByte(c) {
				return fmt.Errorf("must be letters, digits, \"_-:@\" and dots, has %q", c)
			}
		}
	}
	return nil
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == ':' || c == '@'
}

func (p *Property) parseName(name string) error {
	before, after, star := strings.Cut("."+name+".", ".*.")
	if !star {
		return CheckName(name)
	}
	p.pattern = true
	if before != "" {
		p.prefix = before[1:] + "."
	}
	if after != "" {
		p.suffix = "." + strings.TrimSuffix(after, ".")
	}
	if p.prefix == "" && p.suffix == "" {
		return fmt.Errorf("must have a segment beside the star")
	}
	return CheckName(p.prefix + "x" + p.suffix)
}

func (p *Property) parseOptions() error {
	options := p.proto.GetOptions()
	if p.proto.GetType() != configv1.Type_TYPE_ENUM {
		if len(options) > 0 {
			return fmt.Errorf("are for enumerations only")
		}
		return nil
	}
	if len(options) == 0 || len(options) > 1000 {
		return fmt.Errorf("must be 1 to 1000, are %d", len(options))
	}
	seen := map[string]bool{}
	for _, o := range options {
		if o == "" || len(o) > MaxName || !utf8.ValidString(o) || seen[o] {
			return fmt.Errorf("must be short, different and not empty, has %q", shorten(o))
		}
		seen[o] = true
	}
	return nil
}

func (p *Property) parseBound(text string, bound *any) (err error) {
	if text == "" {
		return nil
	}
	switch p.proto.GetType() {
	case configv1.Type_TYPE_INT, configv1.Type_TYPE_FLOAT, configv1.Type_TYPE_DURATION:
		*bound, err = parseText(p.proto, text)
		return err
	}
	return fmt.Errorf("must be empty: only numbers and durations have bounds")
}

// parse reads a value and checks its bounds; of JSON, only that it is JSON.
func (p *Property) parse(text string) (any, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("must have at most %d bytes, has %d", MaxText, len(text))
	}
	v, err := parseText(p.proto, text)
	if err != nil {
		return nil, err
	}
	if p.min != nil && compare(v, p.min) < 0 {
		return nil, fmt.Errorf("must be at least %s, is %s", p.proto.GetMin(), text)
	}
	if p.max != nil && compare(v, p.max) > 0 {
		return nil, fmt.Errorf("must be at most %s, is %s", p.proto.GetMax(), text)
	}
	return v, nil
}

// parseText reads the text form of a type: string, bool, int64, float64, time.Duration, or what encoding/json makes.
func parseText(p *configv1.Property, text string) (any, error) {
	switch p.GetType() {
	case configv1.Type_TYPE_STRING:
		if !utf8.ValidString(text) {
			return nil, fmt.Errorf("must be UTF-8")
		}
		return text, nil
	case configv1.Type_TYPE_BOOL:
		if text != "true" && text != "false" {
			return nil, fmt.Errorf("must be true or false, is %q", shorten(text))
		}
		return text == "true", nil
	case configv1.Type_TYPE_INT:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("must be a whole number of at most 64 bits, is %q", shorten(text))
		}
		return n, nil
	case configv1.Type_TYPE_FLOAT:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("must be a finite number, is %q", shorten(text))
		}
		return f, nil
	case configv1.Type_TYPE_DURATION:
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("must be a duration such as 250ms or 1m30s, is %q", shorten(text))
		}
		return d, nil
	case configv1.Type_TYPE_ENUM:
		if !slices.Contains(p.GetOptions(), text) {
			return nil, fmt.Errorf("must be one of %s, is %q", shorten(strings.Join(p.GetOptions(), ", ")), shorten(text))
		}
		return text, nil
	}
	return parseJSON(text)
}

func parseJSON(text string) (any, error) {
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("must be UTF-8")
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, fmt.Errorf("must be JSON: %s", shorten(err.Error()))
	}
	return v, nil
}

// compare orders two values of the same ordered type.
func compare(a, b any) int {
	switch a := a.(type) {
	case int64:
		return order(a, b.(int64))
	case time.Duration:
		return order(a, b.(time.Duration))
	case float64:
		return order(a, b.(float64))
	}
	return 0
}

func order[T int64 | float64 | time.Duration](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// parseSchema resolves the JSON schema. References are refused: a schema that refers to itself would make the
// validator recurse without end, and inferred schemas have none.
func (p *Property) parseSchema() error {
	text := p.proto.GetJsonSchema()
	switch {
	case text == "":
		return nil
	case p.proto.GetType() != configv1.Type_TYPE_JSON:
		return fmt.Errorf("is for JSON only")
	case len(text) > MaxText:
		return fmt.Errorf("must have at most %d bytes, has %d", MaxText, len(text))
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

// maxDepth bounds the nesting of schemas, whose readers recurse.
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

// inferSchema returns the JSON schema of T. Types that read themselves from text are strings, types that read
// themselves from JSON are anything: their shape is theirs to check.
func inferSchema[T any]() (string, error) {
	own := map[reflect.Type]*jsonschema.Schema{}
	findReaders(reflect.TypeFor[T](), own, map[reflect.Type]bool{})
	schema, err := jsonschema.For[T](&jsonschema.ForOptions{TypeSchemas: own})
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(schema)
	return string(text), err
}

func findReaders(t reflect.Type, own map[reflect.Type]*jsonschema.Schema, seen map[reflect.Type]bool) {
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
		findReaders(t.Elem(), own, seen)
	case reflect.Struct:
		for field := range t.Fields() {
			findReaders(field.Type, own, seen)
		}
	}
}

// shorten bounds text that is quoted in messages.
func shorten(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
