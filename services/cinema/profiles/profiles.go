// Package profiles keeps who in a household is watching.
package profiles

import (
	"context"
	"fmt"
	"strings"

	"bijou.dev/platform/service"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
)

// Options says where profiles are kept. The zero value is ready to use.
type Options struct {
	// Dir is the folder of the data file. Empty: the state folder of the process, and without one the data lives until
	// the process ends.
	Dir string
	// Household lists the names of the profiles made when there is none yet. Nil: Ingrid, Marcel, Noor and Theo. Empty,
	// not nil: none.
	Household []string
}

func (o Options) household() []string {
	if o.Household == nil {
		return []string{"Ingrid", "Marcel", "Noor", "Theo"}
	}
	return o.Household
}

func (o Options) validate() error {
	for i, name := range o.household() {
		if err := checkID(fmt.Sprintf("Household[%d]", i), strings.ToLower(name)); err != nil {
			return err
		}
	}
	return nil
}

// New sets up a profiles service.
func New(_ context.Context, setup *service.Setup, o Options) error {
	if o.Dir == "" {
		o.Dir = setup.StateDir()
	}
	s, err := Open(o)
	if err != nil {
		return err
	}
	setup.OnStop("profiles store", func(context.Context) error { return s.Close() })
	setup.Go("profiles store", s.db.Run)
	profilesv1.RegisterProfilesServer(setup.GRPC(), s)
	return nil
}
