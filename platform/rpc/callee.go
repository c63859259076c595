package rpc

import (
	"context"
	"strings"

	"google.golang.org/grpc/tap"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/retry"
)

// byName ends the authority of calls to a service that was dialled by its name: "catalog.bijou". No host is called that, so
// calls to an address, and those that come through a gateway with their client's authority, are told apart.
const byName = ".bijou"

// authority is who a call to a service is meant for.
func authority(service string) string { return service + byName }

// meant refuses calls that are meant for another service, before anything of them is read. Container hosts give the address
// of an instance that is gone to the next one that starts, maybe of another service, and until its callers have heard of
// it they would get that one's answers, or be told that there is no such method. Told that nothing was done, they try another instance.
func (s *server) meant(ctx context.Context, call *tap.Info) (context.Context, error) {
	for _, a := range call.Header[":authority"] {
		if name, ok := strings.CutSuffix(a, byName); ok && s.Service != "" && name != s.Service {
			return nil, errs.ToStatus(ctx, errs.Errorf(errs.Unavailable, "this is an instance of %s, not of %s", s.Service, name).
				Because(retry.ReasonMisdirected)).Err()
		}
	}
	return ctx, nil
}
