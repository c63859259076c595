package config

import (
	"fmt"
	"strings"

	configv1 "bijou.dev/platform/api/config/v1"
)

// Family is a setting that exists once per key, such as one per circuit: its name has a star where the key goes.
type Family[T any] struct {
	set         *Set
	declaration *declaration
	def         T
	decode      func(*Property, string) (T, error)
}

// IntFamily declares whole numbers: "hystrix.command.*.circuitBreaker.requestVolumeThreshold". The star is a whole segment of
// the name; the key it stands for may have several.
func IntFamily(s *Set, pattern string, def int64, spec Spec) *Family[int64] {
	return family(s, property(configv1.Type_TYPE_INT, pattern, fmt.Sprint(def), spec), def)
}

// BoolFamily declares switches, one per key. See [IntFamily].
func BoolFamily(s *Set, pattern string, def bool, spec Spec) *Family[bool] {
	return family(s, property(configv1.Type_TYPE_BOOL, pattern, fmt.Sprint(def), spec), def)
}

// FloatFamily declares numbers, one per key. See [IntFamily].
func FloatFamily(s *Set, pattern string, def float64, spec Spec) *Family[float64] {
	return family(s, property(configv1.Type_TYPE_FLOAT, pattern, fmt.Sprint(def), spec), def)
}

func family[T any](s *Set, p *configv1.Property, def T) *Family[T] {
	if !strings.Contains(p.GetName(), "*") {
		panic(fmt.Sprintf("declaring family of settings %q: its name needs a star", p.GetName()))
	}
	return &Family[T]{set: s, declaration: declare(s, p, decode[T]), def: def, decode: decode[T]}
}

// For returns the setting for the first of keys that has a value in any layer, else the default: For("catalog.GetMovie",
// "catalog", "default") is what a method is set to, or its service, or everybody. It is live: a value that appears for an
// earlier key takes over. The handle is kept as long as the set, so keys must be of bounded number; keep it rather than
// ask again.
func (f *Family[T]) For(keys ...string) *Value[T] {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = f.declaration.prefix + key + f.declaration.suffix
	}
	return bind(f.set, f.declaration, names, f.def, f.decode)
}
