// Package text makes text from outside safe to keep and to show: [CheckLine] refuses what people must not write,
// [Escape] makes anything safe to print on a terminal, [Bound] makes anything fit for spans, metric labels and logs,
// and [CheckJSON] refuses JSON that programs read differently.
package text

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The longest lines that a person gives with a change, in bytes.
const (
	// MaxAuthor is for who makes it.
	MaxAuthor = 256
	// MaxReason is for why.
	MaxReason = 1024
)

// CheckLine returns nil if s can be stored and shown as one line: valid UTF-8 of at most most bytes, in which each
// character can be seen or is a space. Newlines, other control characters, and characters that change the direction of
// text or have no width are refused. The error is for the end of a sentence that begins with a field's name: "must be
// ...". An empty line is allowed; see [CheckNote].
func CheckLine(s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("must be at most %d bytes, has %d", most, len(s))
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("must be valid UTF-8, is %.80q", s)
	}
	for i, r := range s {
		if !unicode.IsGraphic(r) {
			return fmt.Errorf("must be one line without control characters, has %U at byte %d", r, i)
		}
	}
	return nil
}

// CheckNote is [CheckLine] for what must not be left out, such as the author or the reason of a change.
func CheckNote(s string, most int) error {
	if strings.TrimSpace(s) == "" {
		return fmt.Errorf("must not be empty")
	}
	return CheckLine(s, most)
}

// Escape returns s as one line that is safe to print on a terminal. What CheckLine refuses is written as in Go source:
// \n, \x1b, \u202e, and \xff for a byte that is not UTF-8. All else stays as it is.
func Escape(s string) string {
	if CheckLine(s, len(s)) == nil {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, width := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && width == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unicode.IsGraphic(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[width:]
	}
	return b.String()
}

// Bound returns s as valid UTF-8 of at most most bytes. Each run of invalid bytes becomes one U+FFFD. What is too long
// is cut between characters and ends with "…" if most has room for it. The result does not keep a longer s in memory.
func Bound(s string, most int) string {
	if len(s) <= most && utf8.ValidString(s) {
		return s // ValidString is much faster than ToValidUTF8
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	const mark = "…"
	end, tail := max(most, 0), ""
	if most >= len(mark) {
		end, tail = most-len(mark), mark
	}
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return strings.Clone(s[:end]) + tail
}
