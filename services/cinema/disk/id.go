package disk

import (
	"regexp"

	"bijou.dev/platform/errs"
)

var id = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// ValidID reports whether value can be the id of a film, profile or session: 1 to most bytes of a-z, 0-9 and "-", the
// first not "-".
func ValidID(value string, most int) bool { return len(value) <= most && id.MatchString(value) }

// CheckID adds a violation of the field to bad unless [ValidID] accepts value.
func CheckID(bad *errs.Violations, field, value string, most int) {
	if !ValidID(value, most) {
		bad.Addf(field, "must be 1 to %d of a-z, 0-9 and \"-\", and not begin with \"-\", is %.40q", most, value)
	}
}
