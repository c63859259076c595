package films

import (
	"encoding/json"
	"strings"
	"unicode"

	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/unicode/norm"
)

// articles are the articles that the list writes after a title, as in "Boot, Das".
var articles = []string{"The", "An", "A", "Das", "Les"}

// title returns the name of the film as people write it, or "" if there is none.
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
	if repaired := repairEncoding(s); repaired != s {
		f.find("damaged_title", "repaired", s+" -> "+repaired)
		s = repaired
	}
	if tidy := strings.Join(strings.Fields(s), " "); tidy != s {
		f.find("stray_spaces", "removed", tidy)
		s = tidy
	}
	for _, article := range articles {
		if rest, ok := strings.CutSuffix(s, ", "+article); ok && rest != "" {
			s = article + " " + rest
			f.find("inverted_title", "reordered", s)
			break
		}
	}
	return s
}

// repairEncoding repairs text in the encoding Windows-1252 that was decoded as Mac Roman, which turned each accented
// letter into another character. Text that cannot be encoded in Mac Roman is returned unchanged.
func repairEncoding(s string) string {
	mac, err := charmap.Macintosh.NewEncoder().String(s)
	if err != nil {
		return s
	}
	windows, err := charmap.Windows1252.NewDecoder().String(mac)
	if err != nil || strings.ContainsFunc(windows, isDamaged) {
		return s
	}
	return windows
}

func isDamaged(r rune) bool { return r == unicode.ReplacementChar || unicode.IsControl(r) }

// slug returns s as lower-case letters and digits with single hyphens, for use in a URL. It has 1 to 80 bytes.
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
