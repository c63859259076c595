// Command circuits runs the circuit board.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/circuits"
)

func main() {
	var o circuits.Options
	service.Main("circuits", func(f *service.Flags) {
		f.IntVar(&o.MaxProcesses, "max-processes", 10000, "how many processes may report to this replica")
		f.IntVar(&o.MaxStreams, "max-streams", 200, "how many watches and turbine streams this replica serves")
	}, func(ctx context.Context, setup *service.Setup) error { return circuits.New(ctx, setup, o) })
}
