// Package accept reads Accept-Encoding (RFC 9110, 12.5.3).
package accept

import (
	"cmp"
	"slices"
	"strings"
)

// Encodings returns those of the offered codings that a client accepts: the one with the highest quality first, and in
// the order of offered where qualities are equal. A coding that the client wants less than the content without a coding
// ("identity") is not returned. Nil: none, also for a client that does not send the field.
func Encodings(lines []string, offered ...string) []string {
	least := 1
	if q, named := quality(lines, "identity"); named {
		least = max(least, q)
	}
	var accepted []string
	for _, coding := range offered {
		if q, _ := quality(lines, coding); q >= least {
			accepted = append(accepted, coding)
		}
	}
	slices.SortStableFunc(accepted, func(a, b string) int {
		qa, _ := quality(lines, a)
		qb, _ := quality(lines, b)
		return cmp.Compare(qb, qa)
	})
	return accepted
}

// quality returns how much a client wants a coding, from 0 to 1000, and whether it names the coding; if not, the
// quality is that of "*". Of several, the first counts.
func quality(lines []string, coding string) (q int, named bool) {
	rest := -1
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(item, ";")
			switch name = strings.TrimSpace(name); {
			case strings.EqualFold(name, coding), coding == "gzip" && strings.EqualFold(name, "x-gzip"): // RFC 9110, 8.4.1.3
				return weight(params), true
			case name == "*" && rest < 0:
				rest = weight(params)
			}
		}
	}
	return max(rest, 0), false
}

// weight reads "q=0.5" as thousandths (RFC 9110, 12.4.2). Empty: 1000. What is not well formed counts as 0.
func weight(params string) int {
	params = strings.TrimSpace(params)
	if params == "" {
		return 1000
	}
	if len(params) < 3 || len(params) > len("q=0.123") || params[0]|0x20 != 'q' || params[1] != '=' {
		return 0
	}
	digits := params[2:]
	q := int(digits[0]-'0') * 1000
	if digits[0] != '0' && digits[0] != '1' || len(digits) > 1 && digits[1] != '.' {
		return 0
	}
	for i, unit := 2, 100; i < len(digits); i, unit = i+1, unit/10 {
		if digits[i] < '0' || digits[i] > '9' {
			return 0
		}
		q += int(digits[i]-'0') * unit
	}
	if q > 1000 {
		return 0
	}
	return q
}
