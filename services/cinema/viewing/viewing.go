// Package viewing stores how far each profile has watched each film.
package viewing

import (
	"cmp"
	"context"

	"bijou.dev/platform/service"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
)

// Options says where bookmarks are stored. The zero value is ready to use.
type Options struct {
	// Dir is the folder of the data file. Empty: the state folder of the process; if it has none, a temporary folder
	// that is removed when the process stops.
	Dir string
}

// New sets up a viewing service.
func New(_ context.Context, setup *service.Setup, o Options) error {
	o.Dir = cmp.Or(o.Dir, setup.StateDir())
	s, err := Open(o)
	if err != nil {
		return err
	}
	setup.OnStop("viewing store", func(context.Context) error { return s.Close() })
	setup.Go("viewing store", s.db.Run)
	viewingv1.RegisterViewingServer(setup.GRPC(), s)
	return nil
}
