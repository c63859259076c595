// Package viewing keeps how far each profile got in each film.
package viewing

import (
	"context"

	"bijou.dev/platform/service"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
)

// Options says where bookmarks are kept. The zero value is ready to use.
type Options struct {
	// Dir is the folder of the data file. Empty: the state folder of the process, and without one the data lives until
	// the process ends.
	Dir string
}

// New sets up a viewing service.
func New(_ context.Context, setup *service.Setup, o Options) error {
	if o.Dir == "" {
		o.Dir = setup.StateDir()
	}
	s, err := Open(o)
	if err != nil {
		return err
	}
	setup.OnStop("viewing store", func(context.Context) error { return s.Close() })
	setup.Go("viewing store", s.db.Run)
	viewingv1.RegisterViewingServer(setup.GRPC(), s)
	return nil
}
