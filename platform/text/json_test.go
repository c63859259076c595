package text_test

import (
	"encoding/json"
	"strings"
	"testing"

	"bijou.dev/platform/text"
)

func TestCheckJSON(t *testing.T) {
	for data, want := range map[string]string{
		`{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}`: "",
		`7`:                             "",
		`{"a":1,"a":1}`:                 `"a"`,
		`{"a":[0,{"b":{"c":1,"c":2}}]}`: `"a[1].b.c"`,
		`{"a":1,"\u0061":2}`:            `"a"`,
		`{"a":1} 2`:                     "nothing behind it",
		`{"a":`:                         "EOF",
		``:                              "EOF",
		`[1,]`:                          "invalid",
	} {
		err := text.CheckJSON([]byte(data))
		switch {
		case err == nil && want != "":
			t.Errorf("%s: no error, want %q", data, want)
		case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %q, want %q", data, err, want)
		}
	}
}

func TestDeepJSONIsRefused(t *testing.T) {
	if err := text.CheckJSON([]byte(strings.Repeat("[", 1<<20))); err == nil || !strings.Contains(err.Error(), "deep") {
		t.Errorf("got %v", err)
	}
}

func FuzzCheckJSON(f *testing.F) {
	f.Add([]byte(`{"a":[{"b":1,"b":2}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if text.CheckJSON(data) == nil && !json.Valid(data) {
			t.Errorf("%q is not JSON", data)
		}
	})
}
