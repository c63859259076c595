// Package namestest checks that a place which takes names from outside accepts exactly those that package names allows.
package namestest

import (
	"strings"
	"testing"

	"bijou.dev/platform/names"
)

// Names are allowed and forbidden ones, those at the edges of the rules among them. There is no empty one: what it means
// differs from place to place.
var Names = []string{
	"catalog", "cinema-web", "cinema_web", "7zip", "x", "Catalog", "catalog.v2", "host:catalog:8080", "1.2.3-rc.1+build.7",
	strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 128), strings.Repeat("a", 129),
	"-catalog", "_catalog", ".", "..", "a b", "a@b", "*", "catalog\n", "a\x00", "a\x1b[2J", "café", "a\u202e",
}

// Check gives each of Names to a place by calling try, which returns the place's error, and compares the answer with the
// rule. An error must have the rule in its text.
func Check(t *testing.T, rule names.Rule, try func(name string) error) {
	t.Helper()
	for _, name := range Names {
		err := try(name)
		switch {
		case rule.Match(name) && err != nil:
			t.Errorf("the name %q is refused, but package names allows it: %v", name, err)
		case !rule.Match(name) && err == nil:
			t.Errorf("the name %q is accepted, but package names does not allow it", name)
		case err != nil && !strings.Contains(err.Error(), rule.Must):
			t.Errorf("the name %q is refused with %q, want a text with %q", name, err, rule.Must)
		}
	}
}
