// Command gateway runs the edge.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/gateway"
)

func main() {
	var o gateway.Options
	service.Main("gateway", func(f *service.Flags) {
		f.Var(&o.Routes, "routes", "routes as JSON, until the setting gateway.routes says otherwise")
		f.StringVar(&o.Certs, "certs", "", `folder of certificates for the listener "https" (default: none)`)
		f.StringVar(&o.ACMEDir, "acme-dir", "",
			"folder for certificates that are got by ACME, see the setting gateway.acme (default: none)")
		f.StringVar(&o.AccessLog, "access-log", "",
			"file for lines of the access log that are text, see the setting gateway.accessLog.form (default: in the log)")
		f.StringVar(&o.Secrets, "secrets", "/run/secrets", "folder of the secrets whose names are in routes")
	}, func(ctx context.Context, setup *service.Setup) error { return gateway.New(ctx, setup, o) })
}
