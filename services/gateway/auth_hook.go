package gateway

import (
	"net/http"
	"time"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/auth/hook"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/reply"
	"bijou.dev/services/gateway/routes"
)

// hookMethod asks an external service.
type hookMethod struct {
	hook    *hook.Hook
	timeout time.Duration
	claims  []auth.Field // of the caller, by the fields of the hook's response
	open    bool         // requests pass while the hook does not answer
}

func newHookMethod(from *routes.AuthHook, h *hook.Hook) *hookMethod {
	return &hookMethod{hook: h, timeout: from.Time(), claims: from.Fields(), open: from.FailOpen}
}

func (m *hookMethod) find(x *exchange) found {
	q := &hook.Question{
		Method: x.in.Method, Scheme: x.in.SeenScheme, Host: x.in.SeenHost, Path: x.to.Path + x.in.Query,
		Protocol: "HTTP/" + x.in.Version.String(), ID: x.in.ID, Route: x.rule.Name, Client: x.in.Client,
		Chain: append(append([]string(nil), x.in.Proxies...), x.in.Peer), Principal: x.to.CertName, Header: x.in.Header,
	}
	a, err := m.hook.Ask(x.in.Ctx, m.timeout, q)
	switch {
	case err != nil:
		return found{unknown: err, open: m.open}
	case !a.Allowed:
		return found{denied: a}
	}
	for _, line := range a.Cookies {
		x.out.Extra.Add("Set-Cookie", line)
	}
	return found{caller: &auth.Caller{Method: methodHook, Claims: m.read(a.Header)}}
}

// read makes claims of the fields of a response. A field with commas or several lines is a list.
func (m *hookMethod) read(h message.Header) auth.Claims {
	claims := auth.Claims{}
	for _, f := range m.claims {
		var list []any
		for word := range h.Words(f.Name) {
			if word != "" {
				list = append(list, word)
			}
		}
		switch len(list) {
		case 0:
		case 1:
			claims[f.Claim] = list[0]
		default:
			claims[f.Claim] = list
		}
	}
	return claims
}

func (*hookMethod) challenge(string, string) string { return "" }

const methodHook = "hook"

// deny sends the response of a hook that does not let the request pass.
func (x *exchange) deny(a *hook.Answer) *flow.Failure {
	status := a.Status
	if x.in.GRPC { // it cannot read the response
		if status < http.StatusBadRequest {
			status = http.StatusUnauthorized
		}
		return flow.Fail(flow.FaultClient, status, "the request was refused by the hook of the route %s", x.rule.Name)
	}
	h := reply.FromOrigin(a.Header)
	if status >= http.StatusBadRequest {
		x.fault = flow.FaultClient
		h.Set(flow.FaultHeader, string(flow.FaultClient))
	}
	x.answered = true
	x.out.Whole(status, h, string(a.Body))
	return nil
}
