package films

import (
	"encoding/json"
	"strings"
	"unicode"

	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/unicode/norm"
)

// articles are those that the list puts behind a title, as in "Boot, Das".
var articles = []string{"The", "An", "A", "Das", "Les"}

// title returns the name of the film in the form people write it, or "".
func (f *fields) title() string {
	raw := f.raw["Title"]
	var s string
	var n json.Number
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return ""
	case json.Unmarshal(raw, &s) == nil:
	case json.Unmarshal(raw, &n) == nil: // films such as 300 and 1776
		s = n.String()
		f.find("numeric_title", "read as text", s)
	default:
		return ""
	}
	if len(s) > 300 {
		return ""
	}
	if mended := mend(s); mended != s {
		f.find("damaged_title", "mended", s+" -> "+mended)
		s = mended
	}
	if tidy := strings.Join(strings.Fields(s), " "); tidy != s {
		f.find("stray_spaces", "removed", tidy)
		s = tidy
	}
	for _, article := range articles {
		if rest, ok := strings.CutSuffix(s, ", "+article); ok && rest != "" {
			s = article + " " + rest
			f.find("inverted_title", "turned round", s)
			break
		}
	}
	return s
}

// mend undoes one kind of damage: text of a Windows computer that was read as if a Macintosh had written it, which
// turned each accented letter into another sign. Text with a sign that a Macintosh did not have is left alone.
func mend(s string) string {
	mac, err := charmap.Macintosh.NewEncoder().String(s)
	if err != nil {
		return s
	}
	windows, err := charmap.Windows1252.NewDecoder().String(mac)
	if err != nil || strings.ContainsFunc(windows, func(r rune) bool { return r == unicode.ReplacementChar || unicode.IsControl(r) }) {
		return s
	}
	return windows
}

// slug returns s as lower-case letters and digits with single hyphens, for use in an address. It is never empty and
// at most 80 bytes.
func slug(s string) string {
	var b strings.Builder
	gap := false
	for _, r := range norm.NFKD.String(strings.ToLower(s)) {
		switch {
		case b.Len() >= 80:
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			if gap && b.Len() > 0 {
				b.WriteByte('-')
			}
			gap = false
			b.WriteRune(r)
		case r == '\'' || r == '’' || unicode.Is(unicode.Mn, r):
		case r == '&':
			b.WriteString(map[bool]string{true: "-and"}[b.Len() > 0])
			gap = true
		default:
			gap = true
		}
	}
	if b.Len() == 0 {
		return "film"
	}
	return b.String()
}
