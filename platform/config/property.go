package config

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/text"

	"github.com/google/jsonschema-go/jsonschema"
)

// Limits that a process and the config service share. What is larger is refused with an error of kind errs.Invalid.
const (
	// MaxName is the longest name of a setting, in bytes.
	MaxName = 256
	// MaxText is the largest value, default or schema, in bytes of text.
	MaxText = 256 << 10
)

// Property is the declaration of a setting, checked, so that it can check values. Make one with [ParseProperty].
type Property struct {
	proto    *configv1.Property
	prefix   string // of a pattern: what is before and after the star
	suffix   string
	pattern  bool
	min, max any // nil: no bound
	schema   *jsonschema.Resolved
}

// ParseProperty checks a declaration: its name, its type, and whether default, bounds, options and schema fit the type.
// An error is of kind errs.Invalid and names the field.
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

// Match reports whether the property declares the setting called name: the names are equal, or name fits the pattern,
// whose star stands for one or more whole segments. A name that is itself a pattern fits no pattern.
func (p *Property) Match(name string) bool {
	if !p.pattern {
		return name == p.Name()
	}
	middle := len(name) - len(p.prefix) - len(p.suffix)
	return middle > 0 && strings.HasPrefix(name, p.prefix) && strings.HasSuffix(name, p.suffix) &&
		CheckName(name) == nil
}

// LongestFirst orders properties by the length of their names, the longest first. Where two patterns match a name, the
// first of them in this order declares it.
func LongestFirst(a, b *Property) int {
	return cmp.Or(cmp.Compare(len(b.Name()), len(a.Name())), cmp.Compare(b.Name(), a.Name()))
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
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-:@", c) >= 0
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
	if err := checkLength(text); err != nil {
		return nil, err
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

func checkLength(text string) error {
	if len(text) > MaxText {
		return fmt.Errorf("must have at most %d bytes, has %d", MaxText, len(text))
	}
	return nil
}

// parseText reads the text form of a type: string, bool, int64, float64, time.Duration, or for JSON what encoding/json
// returns.
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
			return nil, fmt.Errorf("must be one of %s, is %q",
				shorten(strings.Join(p.GetOptions(), ", ")), shorten(text))
		}
		return text, nil
	}
	return parseJSON(text)
}

// compare orders two values of the same ordered type.
func compare(a, b any) int {
	switch a := a.(type) {
	case int64:
		return cmp.Compare(a, b.(int64))
	case time.Duration:
		return cmp.Compare(a, b.(time.Duration))
	case float64:
		return cmp.Compare(a, b.(float64))
	}
	return 0
}

// shorten bounds text that is quoted in messages.
func shorten(s string) string { return text.Bound(s, 200) }
