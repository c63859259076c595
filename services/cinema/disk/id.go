package disk

import (
	"regexp"

	"bijou.dev/platform/errs"
)

var id = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,127}$`)

// CheckID returns an Invalid error that names the field unless value can be the id of a film, profile or session: at
// most max of a-z, 0-9 and "-", not starting with "-".
func CheckID(field, value string, most int) error {
	if len(value) > most || !id.MatchString(value) {
		return errs.Errorf(errs.Invalid, "checking %s %.40q", field, value).
			Field(field, "must be letters a-z, digits and dashes, and not too long")
	}
	return nil
}
