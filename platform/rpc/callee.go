package rpc

import (
	"context"
	"strings"

	"google.golang.org/grpc/tap"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/retry"
)

// byName is the end of the authority of calls to a service that was dialled by its name: "catalog.bijou". Calls to an
// address, and calls through a gateway with their client's authority, do not have it.
const byName = ".bijou"

// authority returns the authority that names the service as the callee.
func authority(service string) string { return service + byName }

// meant refuses calls for another service before their message is read. Container hosts give the address of a stopped
// instance to the next container, which may be another service. Until callers know that, they would get the answers of
// that service, or "no such method". The reason of this error lets them try another instance.
func (s *server) meant(ctx context.Context, call *tap.Info) (context.Context, error) {
	for _, a := range call.Header[":authority"] {
		if name, ok := strings.CutSuffix(a, byName); ok && s.Service != "" && name != s.Service {
			err := errs.Errorf(errs.Unavailable, "this is an instance of %s, not of %s", s.Service, name)
			return nil, errs.ToStatus(ctx, err.Because(retry.ReasonMisdirected)).Err()
		}
	}
	return ctx, nil
}
