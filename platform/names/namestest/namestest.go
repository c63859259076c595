// Package namestest checks that a place which takes names from outside accepts exactly those that package names allows.
package namestest

import (
	"strings"
	"testing"

	"bijou.dev/platform/names"
)

// Names are allowed and forbidden names, including those at the limits of the rules. The empty name is not among them:
// places differ in what it means.
var Names = []string{
	"catalog", "cinema-web", "cinema_web", "7zip", "x", "Catalog", "catalog.v2",
	"host:catalog:8080", "1.2.3-rc.1+build.7",
	strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 128), strings.Repeat("a", 129),
	"-catalog", "_catalog", ".", "..", "a b", "a@b", "*", "catalog\n", "a\x00", "a\x1b[2J", "café", "a\u202e",
}

// Check calls try with each of Names. try gives the name to a place and returns the place's error. The test fails if
// the place and the rule disagree, or if an error does not have the rule in its text.
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
