package names_test

import (
	"strings"
	"testing"

	"bijou.dev/platform/names"
)

func TestRules(t *testing.T) {
	for _, tt := range []struct {
		name        string
		service, id bool
	}{
		{"catalog", true, true},
		{"cinema-web", true, true},
		{"cinema_web", true, true},
		{"7zip", true, true},
		{"x", true, true},
		{strings.Repeat("a", 63), true, true},
		{strings.Repeat("a", 64), false, true},
		{strings.Repeat("a", 128), false, true},
		{strings.Repeat("a", 129), false, false},
		{"Catalog", false, true},
		{"catalog.v2", false, true},
		{"host:catalog:8080", false, true},
		{"1.2.3-rc.1+build.7", false, true},
		{"", false, false},
		{"-catalog", false, false},
		{"_catalog", false, false},
		{".", false, false},
		{"..", false, false},
		{"a/b", false, false},
		{"a b", false, false},
		{"catalog\n", false, false},
		{"a\x00", false, false},
		{"a\x1b[2J", false, false},
		{"a\xff", false, false},
		{"café", false, false},
		{"a\u202e", false, false},
	} {
		if got := names.Service.Match(tt.name); got != tt.service {
			t.Errorf("names.Service.Match(%q) = %t, want %t", tt.name, got, tt.service)
		}
		if got := names.ID.Match(tt.name); got != tt.id {
			t.Errorf("names.ID.Match(%q) = %t, want %t", tt.name, got, tt.id)
		}
		if err := names.Service.Check(tt.name); (err == nil) != tt.service {
			t.Errorf("names.Service.Check(%q) = %v, want an error: %t", tt.name, err, !tt.service)
		}
	}
}

func TestCheckSaysTheRuleAndTheName(t *testing.T) {
	err := names.Service.Check("Catalog\x1b[2J")
	want := `must be 1 to 63 lower-case letters, digits, dashes and underscores, beginning with a letter or digit, ` +
		`is "Catalog\x1b[2J"`
	if err == nil || err.Error() != want {
		t.Errorf("Check returned\n%v\nwant\n%s", err, want)
	}
	long := names.ID.Check("!" + strings.Repeat("x", 1<<20))
	if long == nil || len(long.Error()) > 300 {
		t.Error("the error for a name of a megabyte is longer than 300 bytes")
	}
}
