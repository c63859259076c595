package accept_test

import (
	"slices"
	"strings"
	"testing"

	"bijou.dev/services/gateway/internal/accept"
)

func TestEncodingsThatAClientAccepts(t *testing.T) {
	for field, want := range map[string]string{
		"":                                     "",
		"gzip":                                 "gzip",
		"gzip, deflate, br, zstd":              "zstd br gzip",
		"GZIP;q=1.0 , br ; q=0.9":              "gzip br",
		"br;q=0.5, gzip;Q=0.501":               "gzip br",
		"x-gzip":                               "gzip",
		"*":                                    "zstd br gzip",
		"*;q=0.1, gzip":                        "gzip zstd br",
		"*, br;q=0":                            "zstd gzip",
		"gzip;q=0, *;q=0":                      "",
		"identity":                             "",
		"identity, gzip":                       "gzip",
		"identity;q=1, gzip;q=0.5":             "",
		"identity;q=0.4, gzip;q=0.5, br;q=0.3": "gzip",
		"identity;q=0, gzip":                   "gzip",
		"gzip;q=1.001, br;q=2, zstd;q=-1":      "",
		"gzip;q=0.0001, br;q=, zstd;q":         "",
		"gzip;q=1.000, br;q=0., zstd;q=0.000":  "gzip",
		"gzip;level=1":                         "",
		"gzip;q=0, gzip;q=1":                   "",
		",, gzip,":                             "gzip",
		"gzipx, xgzip":                         "",
	} {
		got := strings.Join(accept.Encodings([]string{field}, "zstd", "br", "gzip"), " ")
		if got != want {
			t.Errorf("Accept-Encoding %q: %q, want %q", field, got, want)
		}
		words := strings.Split(field, ",") // the same in several lines
		if got := strings.Join(accept.Encodings(words, "zstd", "br", "gzip"), " "); got != want {
			t.Errorf("Accept-Encoding lines %q: %q, want %q", words, got, want)
		}
	}
	if got := accept.Encodings(nil, "gzip"); got != nil {
		t.Errorf("without Accept-Encoding: %q, want none", got)
	}
}

// FuzzEncodings: what is returned was offered and is named or covered by "*", at most once, and what follows in the
// field does not matter for what was named before.
func FuzzEncodings(f *testing.F) {
	f.Add("gzip;q=0.5, br", "zstd")
	f.Add("*;q=0.1,identity;q=0", "*;q=0")
	f.Add("x-gzip;Q=1.", "")
	offered := []string{"zstd", "br", "gzip"}
	f.Fuzz(func(t *testing.T, field, more string) {
		got := accept.Encodings([]string{field}, offered...)
		for i, coding := range got {
			if !slices.Contains(offered, coding) || slices.Contains(got[:i], coding) {
				t.Errorf("%q: %q", field, got)
			}
			if lower := strings.ToLower(field); !strings.Contains(lower, coding) && !strings.Contains(field, "*") {
				t.Errorf("%q: %q, which the field does not name", field, coding)
			}
			if one := accept.Encodings([]string{field}, coding); len(one) != 1 {
				t.Errorf("%q: %q is accepted beside others but not alone", field, coding)
			}
		}
		if slices.Contains(got, "br") && strings.Contains(field, "br") && !strings.Contains(more, "identity") {
			if again := accept.Encodings([]string{field, more}, offered...); !slices.Contains(again, "br") {
				t.Errorf("%q: %q, and with a second line %q: %q", field, got, more, again)
			}
		}
	})
}
