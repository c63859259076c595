package config

import (
	"fmt"
	"strings"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
)

// Family is a setting that exists once per key, such as one per circuit: its name has a star where the key is.
type Family[T any] struct {
	set         *core
	declaration *declaration
	def         T
	decode      func(*Property, string) (T, error)
}

// IntFamily declares whole numbers, one per key, such as "circuit.*.volume". The star is a whole segment of the name; a
// key may have several segments.
func IntFamily(s Set, pattern string, def int64, spec Spec) *Family[int64] {
	return family(s, property(configv1.Type_TYPE_INT, pattern, fmt.Sprint(def), spec), def)
}

// BoolFamily declares switches, one per key. See [IntFamily].
func BoolFamily(s Set, pattern string, def bool, spec Spec) *Family[bool] {
	return family(s, property(configv1.Type_TYPE_BOOL, pattern, fmt.Sprint(def), spec), def)
}

// FloatFamily declares numbers, one per key. See [IntFamily].
func FloatFamily(s Set, pattern string, def float64, spec Spec) *Family[float64] {
	return family(s, property(configv1.Type_TYPE_FLOAT, pattern, fmt.Sprint(def), spec), def)
}

// DurationFamily declares durations, one per key. See [IntFamily].
func DurationFamily(s Set, pattern string, def time.Duration, spec Spec) *Family[time.Duration] {
	return family(s, property(configv1.Type_TYPE_DURATION, pattern, fmt.Sprint(def), spec), def)
}

func family[T any](s Set, p *configv1.Property, def T) *Family[T] {
	if !strings.Contains(p.GetName(), "*") {
		panic(fmt.Sprintf("declaring family of settings %q: its name needs a star", p.GetName()))
	}
	return &Family[T]{set: s.base(), declaration: declare(s, p, decode[T]), def: def, decode: decode[T]}
}

// For returns a Value that is, at any time, the setting of the first key that has a value in any layer, else the
// default: For("catalog.GetMovie", "catalog", "default") prefers the value of a method to that of its service, and that
// to the value for all circuits. If an earlier key gets a value later, the Value changes to it.
//
// The set keeps the Value, so the number of different keys must be bounded. Callers should keep it too and not call For
// for each use.
func (f *Family[T]) For(keys ...string) *Value[T] {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = f.declaration.prefix + key + f.declaration.suffix
	}
	return bind(f.set, f.declaration, names, f.def, f.decode)
}
