package errs

import (
	"fmt"
	"slices"
)

// MaxViolations is how many violations one error names. The rest are counted.
const MaxViolations = 20

// Violations collects what is wrong with an input, so that its sender sees all of it at once. The zero value is empty
// and ready. It is for one goroutine.
type Violations struct {
	fields []Field
	n      int

	into   *Violations // set by At: the collector that this one adds to
	prefix string
}

// Add records that the field name has a problem, a predicate: "must be at most 10".
func (v *Violations) Add(name, problem string) {
	v.n++
	if v.into != nil {
		v.into.Add(join(v.prefix, name), problem)
		return
	}
	if len(v.fields) < MaxViolations {
		v.fields = append(v.fields, Field{name, problem})
	}
}

// Addf is Add with a format for the problem.
func (v *Violations) Addf(name, format string, args ...any) {
	v.Add(name, fmt.Sprintf(format, args...))
}

// At returns a collector for the fields of the part of the input that is called prefix. What is added to it as "value"
// is added to v as "prefix.value", and what is added without a name as "prefix".
func (v *Violations) At(prefix string) *Violations { return &Violations{into: v, prefix: prefix} }

func join(prefix, name string) string {
	if name == "" {
		return prefix
	}
	return prefix + "." + name
}

// Len returns how many violations were added, also those beyond MaxViolations.
func (v *Violations) Len() int { return v.n }

// Err returns nil if there are no violations, else an Invalid error with all of them. The format says what was being
// done, as in [Errorf].
func (v *Violations) Err(format string, args ...any) error {
	if v.n == 0 {
		return nil
	}
	if v.into != nil {
		return v.into.Err(format, args...)
	}
	e := Errorf(Invalid, format, args...)
	if more := v.n - len(v.fields); more > 0 {
		e.message += fmt.Sprintf(" (%d violations, the first %d follow)", v.n, len(v.fields))
	}
	e.fields = slices.Clone(v.fields)
	return e
}
