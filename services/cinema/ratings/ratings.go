// Package ratings stores how many stars each profile gave each film.
package ratings

import (
	"cmp"
	"context"

	"bijou.dev/platform/service"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
)

// Options says where ratings are stored. The zero value is ready to use.
type Options struct {
	// Dir is the folder of the data file. Empty: the state folder of the process; if it has none, a temporary folder
	// that is removed when the process stops.
	Dir string
}

// New sets up a ratings service.
func New(_ context.Context, setup *service.Setup, o Options) error {
	o.Dir = cmp.Or(o.Dir, setup.StateDir())
	s, err := Open(o)
	if err != nil {
		return err
	}
	setup.OnStop("ratings store", func(context.Context) error { return s.Close() })
	setup.Go("ratings store", s.db.Run)
	ratingsv1.RegisterRatingsServer(setup.GRPC(), s)
	return nil
}
