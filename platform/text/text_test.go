package text_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"bijou.dev/platform/text"
)

func TestCheckLine(t *testing.T) {
	for _, tt := range []struct{ what, line, want string }{
		{"an empty line", "", ""},
		{"words", "raise the limit: p99 is 40 ms (see #12)", ""},
		{"letters of many scripts", "zurück, откат, 戻す, رجوع, 👍🏽", ""},
		{"spaces of many scripts", "a\u00a0b\u3000c", ""},
		{"the replacement character", "\ufffd", ""},
		{"exactly as long as allowed", strings.Repeat("x", 80), ""},
		{"one byte too long", strings.Repeat("x", 81), "must be at most 80 bytes, has 81"},
		{"bytes that are not UTF-8", "a\xffb", `must be valid UTF-8, is "a\xffb"`},
		{"a newline", "a\nforged line", "must be one line without control characters, has U+000A at byte 1"},
		{"a carriage return", "a\rb", "must be one line without control characters, has U+000D at byte 1"},
		{"a tab", "a\tb", "must be one line without control characters, has U+0009 at byte 1"},
		{"an escape", "\x1b[2J", "must be one line without control characters, has U+001B at byte 0"},
		{"a C1 control", "\u009b2J", "must be one line without control characters, has U+009B at byte 0"},
		{"a line separator", "a\u2028b", "must be one line without control characters, has U+2028 at byte 1"},
		{"a bidi override", "é\u202eb", "must be one line without control characters, has U+202E at byte 2"},
		{"a bidi isolate", "\u2066a", "must be one line without control characters, has U+2066 at byte 0"},
		{"a zero-width space", "a\u200bb", "must be one line without control characters, has U+200B at byte 1"},
		{"a byte order mark", "\ufeffa", "must be one line without control characters, has U+FEFF at byte 0"},
		{"private use", "\ue000", "must be one line without control characters, has U+E000 at byte 0"},
	} {
		got := ""
		if err := text.CheckLine(tt.line, 80); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: CheckLine(%q) = %q, want %q", tt.what, tt.line, got, tt.want)
		}
	}
}

func TestCheckNoteNeedsWords(t *testing.T) {
	for _, empty := range []string{"", "  ", "\u3000", "\n"} {
		if err := text.CheckNote(empty, 80); err == nil || err.Error() != "must not be empty" {
			t.Errorf("CheckNote(%q) = %v, want: must not be empty", empty, err)
		}
	}
	if err := text.CheckNote("ann", text.MaxAuthor); err != nil {
		t.Errorf("CheckNote of a name: %v", err)
	}
	if text.CheckNote("a\nb", text.MaxAuthor) == nil {
		t.Error("CheckNote accepts a newline")
	}
}

func TestEscape(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{`plain "quoted" C:\path 戻す`, `plain "quoted" C:\path 戻す`},
		{"a\nb\r\tc", `a\nb\r\tc`},
		{"\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`},
		{"\u009b2J", `\u009b2J`},
		{"user\u202etxt.exe", `user\u202etxt.exe`},
		{"a\u200bb\u2028c", `a\u200bb\u2028c`},
		{"bad \xff\xc3 end", `bad \xff\xc3 end`},
		{"kept \ufffd", "kept \ufffd"},
		{"\U000e0001", `\U000e0001`},
	} {
		if got := text.Escape(tt.in); got != tt.want {
			t.Errorf("Escape(%q) = %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestBound(t *testing.T) {
	for _, tt := range []struct {
		in   string
		most int
		want string
	}{
		{"", 10, ""},
		{"short", 5, "short"},
		{"too long", 7, "too …"},
		{"étude", 4, "…"},
		{"ééééé", 8, "éé…"},
		{"abc", 2, "ab"},
		{"éa", 1, ""},
		{"abc", 0, ""},
		{"abc", -1, ""},
		{"a\xff\xfeb", 10, "a\ufffdb"},
		{"/films/\xe4", 80, "/films/\ufffd"},
		{strings.Repeat("\xff", 1000) + "end", 10, "\ufffdend"},
	} {
		if got := text.Bound(tt.in, tt.most); got != tt.want {
			t.Errorf("Bound(%q, %d) = %q, want %q", tt.in, tt.most, got, tt.want)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain", "a\nb", "\x1b[2J", "\xff", "\u202e", "戻す", "\xc3"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, s string, most int) {
		escaped := text.Escape(s)
		if err := text.CheckLine(escaped, len(escaped)); err != nil {
			t.Errorf("Escape(%q) = %q, which is no safe line: %v", s, escaped, err)
		}
		if text.CheckLine(s, len(s)) == nil && escaped != s {
			t.Errorf("Escape(%q) = %q: a safe line changed", s, escaped)
		}
		if strings.ContainsFunc(escaped, unicode.IsControl) {
			t.Errorf("Escape(%q) = %q has a control character", s, escaped)
		}
		bound := text.Bound(s, most)
		if !utf8.ValidString(bound) || len(bound) > max(most, 0) {
			t.Errorf("Bound(%q, %d) = %q, want valid UTF-8 of at most %d bytes", s, most, bound, most)
		}
	})
}
