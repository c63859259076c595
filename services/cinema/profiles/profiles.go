// Package profiles stores the profiles of users, by household.
package profiles

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/service"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	"bijou.dev/services/cinema/disk"
)

// Options says where profiles are stored. The zero value is ready to use.
type Options struct {
	// Dir is the folder of the data file. Empty: the state folder of the process; if it has none, a temporary folder
	// that is removed when the process stops.
	Dir string
	// Household lists the names of the profiles that are created in an empty store. The id of each is its name in lower
	// case. Nil: Ingrid, Marcel, Noor and Theo. Empty, not nil: none.
	Household []string
}

// complete returns a copy with all defaults, or an error that names the fields that are wrong.
func (o Options) complete() (Options, error) {
	if o.Household == nil {
		o.Household = []string{"Ingrid", "Marcel", "Noor", "Theo"}
	}
	var bad errs.Violations
	for i, name := range o.Household {
		if !disk.ValidID(strings.ToLower(name), 64) {
			bad.Addf(fmt.Sprintf("Household[%d]", i), "must be 1 to 64 letters, digits and dashes, is %.80q", name)
		}
	}
	return o, bad.Err("options of profiles")
}

// New sets up a profiles service.
func New(_ context.Context, setup *service.Setup, o Options) error {
	o.Dir = cmp.Or(o.Dir, setup.StateDir())
	s, err := Open(o)
	if err != nil {
		return err
	}
	setup.OnStop("profiles store", func(context.Context) error { return s.Close() })
	setup.Go("profiles store", s.db.Run)
	profilesv1.RegisterProfilesServer(setup.GRPC(), s)
	return nil
}
