package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
)

// String declares a text.
func String(s Set, name, def string, spec Spec) *Value[string] {
	return value(s, property(configv1.Type_TYPE_STRING, name, def, spec), def, decode[string])
}

// Bool declares a switch. Its text is "true" or "false".
func Bool(s Set, name string, def bool, spec Spec) *Value[bool] {
	return value(s, property(configv1.Type_TYPE_BOOL, name, fmt.Sprint(def), spec), def, decode[bool])
}

// Int declares a whole number.
func Int(s Set, name string, def int64, spec Spec) *Value[int64] {
	return value(s, property(configv1.Type_TYPE_INT, name, fmt.Sprint(def), spec), def, decode[int64])
}

// Float declares a number. It is never infinite and never NaN.
func Float(s Set, name string, def float64, spec Spec) *Value[float64] {
	return value(s, property(configv1.Type_TYPE_FLOAT, name, fmt.Sprint(def), spec), def, decode[float64])
}

// Duration declares a time span. Its text is that of Go: "250ms", "1m30s".
func Duration(s Set, name string, def time.Duration, spec Spec) *Value[time.Duration] {
	return value(s, property(configv1.Type_TYPE_DURATION, name, def.String(), spec), def, decode[time.Duration])
}

// Enum declares a choice among options. def must be one of them.
func Enum(s Set, name, def string, options []string, spec Spec) *Value[string] {
	p := property(configv1.Type_TYPE_ENUM, name, def, spec)
	p.Options = slices.Clone(options)
	return value(s, p, def, decode[string])
}

// JSON declares a document that encoding/json reads into a T. T must not be recursive.
//
// The config service refuses a document that does not fit the JSON schema of T: unknown fields, wrong types, and
// missing fields unless they are marked omitempty or omitzero. If T has a method JSONSchema() string, its result is
// used as the schema instead, and can say more: bounds, patterns, which fields belong together.
//
// If T or *T has a method Validate() error, a value that it refuses is not used. The service cannot call the method, so
// it publishes such a value, and each process that refuses it reports that.
func JSON[T any](s Set, name string, def T, spec Spec) *Value[T] {
	text, err := json.Marshal(def)
	if err != nil {
		panic(fmt.Sprintf("declaring setting %q: %v", name, err))
	}
	p := property(configv1.Type_TYPE_JSON, name, string(text), spec)
	if own, ok := any(def).(interface{ JSONSchema() string }); ok {
		p.JsonSchema = own.JSONSchema()
	} else if p.JsonSchema, err = inferSchema[T](); err != nil {
		panic(fmt.Sprintf("declaring setting %q: %v", name, err))
	}
	return value(s, p, def, decodeJSON[T])
}

func property(t configv1.Type, name, def string, spec Spec) *configv1.Property {
	return &configv1.Property{
		Name: name, Type: t, DefaultValue: def, Doc: spec.Doc, Unit: spec.Unit, Min: spec.Min, Max: spec.Max,
	}
}

func value[T any](s Set, p *configv1.Property, def T, decode func(*Property, string) (T, error)) *Value[T] {
	if strings.Contains(p.GetName(), "*") {
		panic(fmt.Sprintf("declaring setting %q: a name with a star is a family", p.GetName()))
	}
	return bind(s.base(), declare(s, p, decode), []string{p.GetName()}, def, decode)
}

// decode reads the text of a type other than JSON. T is the type that parse returns for the property.
func decode[T any](p *Property, text string) (T, error) {
	v, err := p.parse(text)
	if err != nil {
		var zero T
		return zero, err
	}
	return v.(T), nil
}

// decodeJSON calls code of T with text from outside. If that code panics, the text does not fit.
func decodeJSON[T any](_ *Property, text string) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("must be readable: %s panicked: %v", reflect.TypeFor[T](), r)
		}
	}()
	if err := checkLength(text); err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return v, fmt.Errorf("must be JSON for %s: %w", reflect.TypeFor[T](), err)
	}
	if p := reflect.ValueOf(&v).Elem(); p.Kind() == reflect.Pointer && p.IsNil() {
		return v, fmt.Errorf("must not be null")
	}
	for _, value := range []any{&v, v} {
		if checker, ok := value.(interface{ Validate() error }); ok {
			return v, checker.Validate()
		}
	}
	return v, nil
}
