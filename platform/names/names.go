// Package names has the rules for what parts of the platform are called. Every place that takes a name from outside, in
// code, settings, routes, compose files and JSON schemas, uses them, so that a name which one part accepts is accepted
// by all, and a refusal reads the same everywhere.
package names

import (
	"fmt"
	"regexp"
)

// Rule says which names are allowed.
type Rule struct {
	// Pattern is the rule as a regular expression that Go and JSON schemas understand. It matches the whole name.
	Pattern string
	// Must is the rule for people, to be put after the name of a field: "must be ...".
	Must string

	compiled *regexp.Regexp
}

var (
	// Service is the rule for services, and for the endpoints of an instance, which are called after its listeners. The
	// names become parts of keys, host names, metric labels and the names of circuits, which are joined by dots.
	Service = rule(`^[a-z0-9][a-z0-9_-]{0,62}$`,
		"must be 1 to 63 lower-case letters, digits, dashes and underscores, beginning with a letter or digit")
	// ID is the rule for instances, environments, regions, zones, versions and routes. It allows what container ids,
	// host names, addresses and semantic versions contain.
	ID = rule(`^[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}$`,
		"must be 1 to 128 letters, digits and . _ : + -, beginning with a letter or digit")
)

func rule(pattern, must string) Rule { return Rule{pattern, must, regexp.MustCompile(pattern)} }

// Match reports whether name is allowed.
func (r Rule) Match(name string) bool { return r.compiled.MatchString(name) }

// Check returns nil if name is allowed, else an error whose text is Must and the name, escaped and at most 40 bytes of
// it.
func (r Rule) Check(name string) error {
	if r.Match(name) {
		return nil
	}
	return fmt.Errorf("%s, is %.40q", r.Must, name)
}
